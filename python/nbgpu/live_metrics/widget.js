// The charts of nbgpu.metrics(): two sparklines an accelerator, as plain SVG, from the samples that come as messages.

const WINDOW_S = 60;
const WIDTH = 160;
const HEIGHT = 28;
const SVG = 'http://www.w3.org/2000/svg';

function element(tag, className, text = '') {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text; // names are text, never markup
  return made;
}

function chart(label) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', label);
  const line = document.createElementNS(SVG, 'path');
  svg.append(line);
  return { svg, line };
}

/** Returns the line through what is known of `values`, whose top is `most`. */
function path(samples, value, most, now) {
  let drawn = '';
  let isDown = false;
  for (const sample of samples) {
    const y = value(sample);
    if (y === null || !most) {
      isDown = false;
      continue;
    }
    const left = WIDTH * (1 - (now - sample.time_unix_s) / WINDOW_S);
    const top = HEIGHT - 1 - (HEIGHT - 2) * Math.min(Math.max(y / most, 0), 1);
    drawn += `${isDown ? 'L' : 'M'}${left.toFixed(1)},${top.toFixed(1)}`;
    isDown = true;
  }
  return drawn;
}

function gib(bytes) {
  return (bytes / 2 ** 30).toFixed(1);
}

class Row {
  constructor(accelerator) {
    const name = `${accelerator.type} ${accelerator.index}${accelerator.simulated ? ' (simulated)' : ''}`;
    this.samples = [];
    this.busy = chart(`${name}: busy, last minute`);
    this.memory = chart(`${name}: memory, last minute`);
    this.busyText = element('span', 'nbgpu-number', '–');
    this.memoryText = element('span', 'nbgpu-number', '–');
    this.moreText = element('span', 'nbgpu-more');
    this.node = element('div', 'nbgpu-row');
    this.node.append(
      element('span', 'nbgpu-name', name),
      this.busy.svg,
      this.busyText,
      this.memory.svg,
      this.memoryText,
      this.moreText
    );
  }

  draw() {
    const last = this.samples.at(-1);
    if (!last) {
      return;
    }
    const now = last.time_unix_s;
    this.samples = this.samples.filter(sample => now - sample.time_unix_s <= WINDOW_S + 5);
    const total = last.memory_total_bytes;
    this.busy.line.setAttribute('d', path(this.samples, sample => sample.utilisation_percent, 100, now));
    this.memory.line.setAttribute('d', path(this.samples, sample => sample.memory_used_bytes, total, now));
    this.busyText.textContent = last.utilisation_percent === null ? '–' : `${Math.round(last.utilisation_percent)}%`;
    this.memoryText.textContent =
      last.memory_used_bytes === null
        ? '–'
        : `${gib(last.memory_used_bytes)}${total === null ? '' : ` of ${gib(total)}`} GiB`;
    const more = [];
    if (last.power_watts !== null) {
      more.push(`${Math.round(last.power_watts)} W`);
    }
    if (last.temperature_celsius !== null) {
      more.push(`${Math.round(last.temperature_celsius)} °C`);
    }
    this.moreText.textContent = more.join(' · ');
  }
}

function render({ model, el }) {
  const problem = element('div', 'nbgpu-problem');
  problem.setAttribute('role', 'status');
  const list = element('div', 'nbgpu-rows');
  const head = element('div', 'nbgpu-head');
  for (const text of ['', 'Busy, last minute', '', 'Memory, last minute', '', '']) {
    head.append(element('span', '', text));
  }
  el.classList.add('nbgpu-metrics');
  el.append(list, problem);
  let rows = new Map();

  const showProblem = () => {
    problem.textContent = model.get('problem');
  };
  const showAccelerators = () => {
    const known = rows;
    rows = new Map();
    for (const accelerator of model.get('accelerators')) {
      rows.set(accelerator.id, known.get(accelerator.id) ?? new Row(accelerator));
    }
    list.replaceChildren(head, ...[...rows.values()].map(row => row.node));
  };
  const take = message => {
    if (message.kind !== 'samples') {
      return;
    }
    for (const sample of message.samples) {
      const row = rows.get(sample.accelerator_id);
      const newest = row?.samples.at(-1)?.time_unix_s ?? -Infinity;
      if (row && sample.time_unix_s > newest) {
        row.samples.push(sample);
      }
    }
    for (const row of rows.values()) {
      row.draw();
    }
  };

  showAccelerators();
  showProblem();
  model.on('change:accelerators', showAccelerators);
  model.on('change:problem', showProblem);
  model.on('msg:custom', take);
  model.nbgpuViews = (model.nbgpuViews ?? 0) + 1;
  model.send({ kind: 'shown' });
  return () => {
    model.off('change:accelerators', showAccelerators);
    model.off('change:problem', showProblem);
    model.off('msg:custom', take);
    model.nbgpuViews -= 1;
    if (model.nbgpuViews === 0) {
      model.send({ kind: 'hidden' });
    }
  };
}

export default { render };
