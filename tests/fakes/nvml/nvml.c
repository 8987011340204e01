/* A libnvidia-ml.so.1 that says what a file says.
 *
 * $NBGPU_FAKE_NVML names the file, which is read anew at every call. Each line is one device:
 *   gpu|uuid|name|total|used|utilisation|power_mw|power_limit_mw|temperature|sm_mhz|memory_mhz|lost|mig
 *       |pcie_tx_kb_s|pcie_rx_kb_s|nvlink_tx_kib|nvlink_rx_kib|reasons|ecc_corrected|ecc_uncorrected
 *   mig|uuid|name|total|used            a slice of the GPU above; an empty uuid is a number without a slice
 *   process|pid|used                    computes on the GPU or slice above
 *   xid|code|number                     an event of the GPU above; told once to those who wait, in order of the numbers
 * Memory is in bytes, NVLink what it has carried in all. Compiled with -DWITHOUT_MEMORY_V2, -DWITHOUT_CLOCKS,
 * -DWITHOUT_REASONS or -DWITHOUT_DETAILS it is a driver that lacks these symbols.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, GPU_IS_LOST = 15,
       UNKNOWN = 999 };
enum { MAX_DEVICES = 128, FIELDS = 20, MAX_LINES = 256 };

typedef struct { int slot; } Handle;
typedef struct { char field[FIELDS][128]; int parent; } Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned gpu, memory; } Utilisation;

static Handle handles[MAX_DEVICES];
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned field, scope; long long timestamp, latency; int type, status; unsigned long long value; } Field;
typedef struct { Handle *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } Event;
typedef struct { int device; unsigned long long first, second; } Line;

/* Each thread has what it read itself: the agent asks from several at once. */
static __thread Device devices[MAX_DEVICES];
static __thread int device_count;
static __thread Line processes[MAX_LINES], xids[MAX_LINES];
static __thread int process_count, xid_count;

static int load(void) {
    FILE *file = fopen(getenv("NBGPU_FAKE_NVML") ? getenv("NBGPU_FAKE_NVML") : "", "r");
    char line[2048];
    int parent = -1;
    if (!file) return UNKNOWN;
    device_count = process_count = xid_count = 0;
    while (fgets(line, sizeof line, file) && device_count < MAX_DEVICES) {
        Device *device = &devices[device_count];
        char *rest = line, *field;
        line[strcspn(line, "\n")] = 0;
        if (!*line) continue;
        if (!strncmp(line, "process|", 8) && process_count < MAX_LINES) {
            Line *found = &processes[process_count++];
            found->device = device_count - 1;
            sscanf(line, "process|%llu|%llu", &found->first, &found->second);
            continue;
        }
        if (!strncmp(line, "xid|", 4) && xid_count < MAX_LINES) {
            Line *found = &xids[xid_count++];
            found->device = device_count - 1;
            sscanf(line, "xid|%llu|%llu", &found->first, &found->second);
            continue;
        }
        memset(device, 0, sizeof *device);
        for (int i = 0; i < FIELDS && (field = strsep(&rest, "|")); i++) snprintf(device->field[i], 128, "%s", field);
        handles[device_count].slot = device_count;
        if (!strcmp(device->field[0], "gpu")) { parent = device_count; device->parent = -1; }
        else device->parent = parent;
        device_count++;
    }
    fclose(file);
    return SUCCESS;
}

static Device *find(Handle *handle, int *status) {
    *status = load();
    if (*status) return NULL;
    if (handle->slot >= device_count) { *status = INVALID_ARGUMENT; return NULL; }
    Device *device = &devices[handle->slot];
    Device *whole = device->parent >= 0 ? &devices[device->parent] : device;
    if (atoi(whole->field[11])) { *status = GPU_IS_LOST; return NULL; }
    return device;
}

static int text(Handle *handle, int field, char *to, unsigned length) {
    int status;
    Device *device = find(handle, &status);
    if (!device) return status;
    if (strlen(device->field[field]) >= length) return INSUFFICIENT_SIZE;
    strcpy(to, device->field[field]);
    return SUCCESS;
}

/* An empty field is what this GPU does not support. */
static int number(Handle *handle, int field, unsigned *to) {
    int status;
    Device *device = find(handle, &status);
    if (!device) return status;
    if (device->parent >= 0) return INVALID_ARGUMENT;
    if (!*device->field[field]) return NOT_SUPPORTED;
    *to = (unsigned)strtoul(device->field[field], NULL, 10);
    return SUCCESS;
}

/* As a driver does that does not fit its library. */
int nvmlInitWithFlags(unsigned flags) {
    const char *failure = getenv("NBGPU_FAKE_NVML_INIT");
    (void)flags;
    return failure ? atoi(failure) : load();
}
int nvmlShutdown(void) { return SUCCESS; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    if (length < 16) return INSUFFICIENT_SIZE;
    strcpy(version, "570.86.15");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int status = load();
    *count = 0;
    for (int i = 0; i < device_count; i++) *count += devices[i].parent < 0;
    return status;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle **handle) {
    int status = load();
    if (status) return status;
    for (int i = 0; i < device_count; i++)
        if (devices[i].parent < 0 && index-- == 0) {
            *handle = &handles[i];
            find(*handle, &status);
            return status;
        }
    return INVALID_ARGUMENT;
}

int nvmlDeviceGetUUID(Handle *handle, char *to, unsigned length) { return text(handle, 1, to, length); }
int nvmlDeviceGetName(Handle *handle, char *to, unsigned length) { return text(handle, 2, to, length); }

static int memory(Handle *handle, unsigned long long *total, unsigned long long *used) {
    int status;
    Device *device = find(handle, &status);
    if (!device) return status;
    *total = strtoull(device->field[3], NULL, 10);
    *used = strtoull(device->field[4], NULL, 10);
    return SUCCESS;
}

/* Version 1 counts what the driver reserves as used: here 500 MiB. */
int nvmlDeviceGetMemoryInfo(Handle *handle, Memory *to) {
    int status = memory(handle, &to->total, &to->used);
    to->used += 500ull << 20;
    to->free = to->total - to->used;
    return status;
}

#ifndef WITHOUT_MEMORY_V2
int nvmlDeviceGetMemoryInfo_v2(Handle *handle, MemoryV2 *to) {
    if (to->version != (sizeof(MemoryV2) | 2u << 24)) return INVALID_ARGUMENT;
    int status = memory(handle, &to->total, &to->used);
    to->reserved = 500ull << 20;
    to->free = to->total - to->used - to->reserved;
    return status;
}
#endif

int nvmlDeviceGetUtilizationRates(Handle *handle, Utilisation *to) {
    to->memory = 0;
    return number(handle, 5, &to->gpu);
}
int nvmlDeviceGetPowerUsage(Handle *handle, unsigned *to) { return number(handle, 6, to); }
int nvmlDeviceGetEnforcedPowerLimit(Handle *handle, unsigned *to) { return number(handle, 7, to); }
int nvmlDeviceGetTemperature(Handle *handle, unsigned sensor, unsigned *to) {
    return sensor == 0 ? number(handle, 8, to) : INVALID_ARGUMENT;
}

#ifndef WITHOUT_CLOCKS
int nvmlDeviceGetClockInfo(Handle *handle, unsigned kind, unsigned *to) {
    return kind == 1 ? number(handle, 9, to) : kind == 2 ? number(handle, 10, to) : INVALID_ARGUMENT;
}
#endif

int nvmlDeviceGetMigMode(Handle *handle, unsigned *current, unsigned *pending) {
    int status = number(handle, 12, current);
    *pending = status ? 0 : *current;
    return status;
}

int nvmlDeviceGetMaxMigDeviceCount(Handle *handle, unsigned *count) {
    int status;
    if (!find(handle, &status)) return status;
    *count = 7;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Handle *handle, unsigned index, Handle **slice) {
    int status;
    if (!find(handle, &status)) return status;
    for (int i = handle->slot + 1; i < device_count && devices[i].parent == handle->slot; i++)
        if (index-- == 0) {
            *slice = &handles[i];
            return *devices[i].field[1] ? SUCCESS : NOT_FOUND;
        }
    return NOT_FOUND;
}

#ifndef WITHOUT_DETAILS
int nvmlDeviceGetPcieThroughput(Handle *handle, unsigned counter, unsigned *to) {
    usleep(20000); /* as the real one */
    return counter < 2 ? number(handle, 13 + (int)counter, to) : INVALID_ARGUMENT;
}

int nvmlDeviceGetTotalEccErrors(Handle *handle, unsigned kind, unsigned counter, unsigned long long *to) {
    unsigned value = 0;
    int status = kind < 2 && counter == 0 ? number(handle, 18 + (int)kind, &value) : INVALID_ARGUMENT;
    *to = value;
    return status;
}

int nvmlDeviceGetFieldValues(Handle *handle, int count, Field *values) {
    int status;
    if (!find(handle, &status)) return status;
    for (int i = 0; i < count; i++) {
        unsigned value = 0;
        int known = (values[i].field == 138 || values[i].field == 139) && values[i].scope == 0xffffffffu;
        values[i].status = known ? number(handle, 15 + (int)(values[i].field - 138), &value) : INVALID_ARGUMENT;
        values[i].type = 3;
        values[i].value = value;
    }
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Handle *handle, unsigned *count, Process *to) {
    int status;
    unsigned room = *count, found = 0;
    if (!find(handle, &status)) return status;
    for (int i = 0; i < process_count; i++) {
        if (processes[i].device != handle->slot) continue;
        if (to && found < room) to[found] = (Process){(unsigned)processes[i].first, processes[i].second, 0, 0};
        found++;
    }
    *count = found;
    return found && (!to || found > room) ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlSystemGetProcessName(unsigned pid, char *to, unsigned length) {
    snprintf(to, length, "/opt/other/container-%u", pid);
    return SUCCESS;
}

static unsigned long long told;

int nvmlEventSetCreate(void **set) { *set = &told; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }
int nvmlDeviceRegisterEvents(Handle *handle, unsigned long long types, void *set) {
    (void)handle, (void)set;
    return types == 8 ? SUCCESS : NOT_SUPPORTED;
}

int nvmlEventSetWait_v2(void *set, Event *event, unsigned timeout_ms) {
    (void)set;
    for (unsigned waited = 0; waited <= timeout_ms; waited += 5) {
        int status = load();
        if (status) return status;
        for (int i = 0; i < xid_count; i++)
            if (xids[i].second > told) {
                told = xids[i].second;
                *event = (Event){&handles[xids[i].device], 8, xids[i].first, 0xffffffffu, 0xffffffffu};
                return SUCCESS;
            }
        usleep(5000);
    }
    return TIMEOUT;
}

static int reasons(Handle *handle, unsigned long long *to) {
    unsigned value = 0;
    int status = number(handle, 17, &value);
    *to = value;
    return status;
}

#ifndef WITHOUT_REASONS
int nvmlDeviceGetCurrentClocksEventReasons(Handle *handle, unsigned long long *to) { return reasons(handle, to); }
#endif
int nvmlDeviceGetCurrentClocksThrottleReasons(Handle *handle, unsigned long long *to) { return reasons(handle, to); }
#endif
