/* A libnvidia-ml.so.1 that says what a file says.
 *
 * $NBGPU_FAKE_NVML names the file, which is read anew at every call. Each line is one device:
 *   gpu|uuid|name|total|used|utilisation|power_mw|power_limit_mw|temperature|sm_mhz|memory_mhz|lost|mig
 *   mig|uuid|name|total|used            a slice of the GPU above; an empty uuid is a number without a slice
 * Memory is in bytes. Compiled with -DWITHOUT_MEMORY_V2 or -DWITHOUT_CLOCKS it is a driver that lacks these symbols.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15,
       UNKNOWN = 999 };
enum { MAX_DEVICES = 128, FIELDS = 13 };

typedef struct { int slot; } Handle;
typedef struct { char field[FIELDS][128]; int parent; } Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned gpu, memory; } Utilisation;

static Handle handles[MAX_DEVICES];
static Device devices[MAX_DEVICES];
static int device_count;

static int load(void) {
    FILE *file = fopen(getenv("NBGPU_FAKE_NVML") ? getenv("NBGPU_FAKE_NVML") : "", "r");
    char line[2048];
    int parent = -1;
    if (!file) return UNKNOWN;
    device_count = 0;
    while (fgets(line, sizeof line, file) && device_count < MAX_DEVICES) {
        Device *device = &devices[device_count];
        char *rest = line, *field;
        line[strcspn(line, "\n")] = 0;
        if (!*line) continue;
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

int nvmlInitWithFlags(unsigned flags) { (void)flags; return load(); }
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
