// Small pictures as inline SVG, drawn from plain numbers. Text goes in with textContent; colours are written into each
// mark, so that a saved picture looks as it does here. A picture is drawn again when its width or the theme changes.

const SVG = 'http://www.w3.org/2000/svg';

function mark(tag, attributes = {}, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined && value !== null) node.setAttribute(name, value);
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
}

function tip(node, text) {
  node.append(mark('title', {}, text));
  return node;
}

const measure = (() => {
  const pen = document.createElement('canvas').getContext('2d');
  return (text, size, family) => { pen.font = size + 'px ' + family; return pen.measureText(text).width; };
})();

// The text in at most `most` lines of `wide` pixels; what does not fit ends in an ellipsis.
function lines(text, wide, size, family, most = 2) {
  const fits = (part) => measure(part, size, family) <= wide;
  const found = [''];
  for (const piece of text.split(/(?<= )/)) {
    if (fits(found.at(-1) + piece)) found[found.length - 1] += piece;
    else if (found.length < most && found.at(-1)) found.push(piece);
    else { found[found.length - 1] += piece; break; }
  }
  const whole = found.join('') === text;
  let last = found.pop();
  if (!fits(last) || !whole) { while (last && !fits(last + '…')) last = last.slice(0, -1); last += '…'; }
  return [...found, last];
}

// host: where the picture goes. draw(width, ink) gives {height, nodes}. Returns what draws it again.
function picture(host, label, draw) {
  const paint = () => {
    const width = Math.floor(host.clientWidth);
    if (width < 150 || !host.isConnected) return;     // a hidden or half-made layout
    const family = getComputedStyle(host).fontFamily;
    const ink = { family, text: shade(host, '--sp-ink'), quiet: shade(host, '--sp-quiet'), line: shade(host, '--sp-line'),
      accent: shade(host, '--sp-accent'), near: shade(host, '--sp-near'), found: shade(host, '--sp-found'), paper: shade(host, '--sp-paper'), wash: shade(host, '--sp-wash') };
    const { height, nodes } = draw(width, ink);
    const svg = mark('svg', { xmlns: SVG, width, height, viewBox: '0 0 ' + width + ' ' + height, role: 'img', 'aria-label': label, 'font-family': family, 'font-size': 13, fill: ink.text });
    svg.append(...nodes);
    host.replaceChildren(svg);
  };
  host.paint = paint;
  if (!host.sized) {
    let wide = 0;
    host.sized = new ResizeObserver(() => { if (host.clientWidth !== wide) { wide = host.clientWidth; host.paint(); } });
    host.sized.observe(host);
    onTheme(host, () => host.paint());
  }
  paint();
  return paint;
}

const words = (x, y, text, more = {}) => mark('text', { x, y, ...more }, text);

// ------------------------------------------------------------------ pictures

// Bars from 0 to 1 with intervals: rows of {label, value, low, high, note, text, colour}.
function bars(rows, { format = asPercent } = {}) {
  return (width, ink) => {
    const nodes = [];
    let y = 0;
    for (const row of rows) {
      const colour = ink[row.colour || 'quiet'], bar = y + 24;
      nodes.push(words(0, y + 15, row.label, { 'font-weight': 600 }));
      const figure = words(width, y + 15, '', { 'text-anchor': 'end' });
      figure.append(mark('tspan', { 'font-weight': 600 }, format(row.value)));
      if (row.note) figure.append(mark('tspan', { fill: ink.quiet, 'font-size': 12 }, '  ' + row.note));
      nodes.push(figure, mark('rect', { x: 0, y: bar, width, height: 9, rx: 3, fill: ink.wash, stroke: ink.line }));
      nodes.push(mark('rect', { x: 0, y: bar, width: Math.max(1, width * row.value), height: 9, rx: 3, fill: colour, opacity: row.colour ? 1 : 0.75 }));
      if (row.low !== null && row.low !== undefined) {
        const [a, b] = [row.low, row.high].map((v) => Math.min(width - 1, Math.max(1, width * v)));
        const path = 'M' + a + ' ' + (bar - 2) + 'v13M' + b + ' ' + (bar - 2) + 'v13M' + a + ' ' + (bar + 4.5) + 'H' + b;
        nodes.push(mark('path', { d: path, stroke: ink.paper, 'stroke-width': 4, fill: 'none', opacity: 0.7 }));
        nodes.push(tip(mark('path', { d: path, stroke: ink.text, 'stroke-width': 1.5, fill: 'none' }), '95 %: ' + format(row.low) + ' to ' + format(row.high)));
      }
      y = bar + 9;
      if (row.text) {
        for (const part of lines(row.text, width, 12, ink.family)) { y += 16; nodes.push(tip(words(0, y, part, { 'font-size': 12, fill: ink.quiet }), row.text)); }
      }
      y += 12;
    }
    return { height: y, nodes };
  };
}

// Columns a virtual token, panels one above another: {title, values, low, high, group}; panels of a group share their scale.
function columns(panels, count, { picked, onPick }) {
  return (width, ink) => {
    const gap = 20, tall = 62, wide = width / count, nodes = [];
    const height = panels.length * (gap + tall) + 22;
    const ends = (panel) => panels.filter((p) => p.group === panel.group).flatMap((p) => [...p.values, ...(p.low || []), ...(p.high || [])]);
    const chosen = picked();
    if (chosen !== null && chosen < count) {
      nodes.push(mark('rect', { x: chosen * wide, y: 0, width: wide, height, rx: 4, fill: ink.accent, opacity: 0.14 }));
      nodes.push(mark('rect', { x: chosen * wide, y: height - 3, width: wide, height: 3, fill: ink.accent }));
    }
    panels.forEach((panel, n) => {
      const top = n * (gap + tall) + gap, all = ends(panel);
      const low = Math.min(0, ...all), high = Math.max(0, ...all), reach = high - low || 1;
      const at = (v) => top + tall * (high - v) / reach;
      nodes.push(words(0, top - 6, panel.title, { 'font-size': 12, 'font-weight': 600 }));
      if (panel.note && 1.15 * measure(panel.title + panel.note, 12, ink.family) < width - 24) nodes.push(words(width, top - 6, panel.note, { 'font-size': 12, fill: ink.quiet, 'text-anchor': 'end' }));
      nodes.push(mark('line', { x1: 0, x2: width, y1: at(0), y2: at(0), stroke: ink.line }));
      panel.values.forEach((value, i) => {
        const sure = !panel.low || panel.low[i] > 0 || panel.high[i] < 0;
        const colour = !sure ? ink.quiet : value < 0 ? ink.near : ink.accent;
        const thick = Math.max(1, Math.min(26, wide * 0.62)), x = (i + 0.5) * wide;
        nodes.push(mark('rect', { x: x - thick / 2, y: Math.min(at(0), at(value)), width: thick, height: Math.max(0.5, Math.abs(at(0) - at(value))), fill: colour, opacity: sure ? 1 : 0.5 }));
        if (panel.low) nodes.push(mark('line', { x1: x, x2: x, y1: at(panel.low[i]), y2: at(panel.high[i]), stroke: ink.text, 'stroke-width': 1.2 }));
      });
    });
    const every = Math.ceil(24 / wide);
    for (let i = 0; i < count; i++) {
      if (i % every === 0 || i === chosen) nodes.push(words((i + 0.5) * wide, height - 8, String(i + 1), { 'font-size': 11, 'text-anchor': 'middle', fill: i === chosen ? ink.text : ink.quiet }));
      const said = panels.map((p) => p.title + ' ' + p.values[i].toPrecision(2)).join('\n');
      const hit = mark('rect', { x: i * wide, y: 0, width: wide, height, fill: 'transparent', role: 'button', tabindex: i === (chosen ?? 0) ? 0 : -1, 'data-index': i, 'aria-label': 'Virtual token ' + (i + 1), style: 'cursor:pointer' });
      hit.addEventListener('click', () => onPick(i));
      hit.addEventListener('keydown', (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); onPick(i); }
        if (step && i + step >= 0 && i + step < count) { event.preventDefault(); onPick(i + step, true); }
      });
      nodes.push(tip(hit, 'virtual token ' + (i + 1) + '\n' + said));
    }
    return { height, nodes };
  };
}

// Curves over one axis, panels one above another: {title, values, format, low, high}.
function curves(xs, panels, { title, ends, tall = 110 }) {
  return (width, ink) => {
    const left = 46, right = 10, nodes = [];
    const x = (v) => left + (width - left - right) * (v - xs[0]) / ((xs.at(-1) - xs[0]) || 1);
    let y = 4;
    for (const panel of panels) {
      let low = panel.low ?? Math.min(...panel.values), high = panel.high ?? Math.max(...panel.values);
      if (high - low < 1e-9) { low -= 0.5; high += 0.5; }
      const top = y + 26, at = (v) => top + tall * (high - v) / (high - low);
      nodes.push(words(0, y + 12, panel.title, { 'font-size': 12, 'font-weight': 600 }));
      for (const v of [low, (low + high) / 2, high]) {
        nodes.push(mark('line', { x1: left, x2: width - right, y1: at(v), y2: at(v), stroke: ink.line }));
        nodes.push(words(left - 6, at(v) + 4, panel.format(v), { 'font-size': 11, fill: ink.quiet, 'text-anchor': 'end' }));
      }
      nodes.push(mark('polyline', { points: panel.values.map((v, i) => x(xs[i]) + ',' + at(v)).join(' '), fill: 'none', stroke: ink.accent, 'stroke-width': 2 }));
      panel.values.forEach((v, i) => nodes.push(tip(mark('circle', { cx: x(xs[i]), cy: at(v), r: 3.5, fill: ink.accent, stroke: ink.paper }), title + ' ' + xs[i] + ': ' + panel.format(v))));
      y = top + tall + 14;
    }
    const [first, last] = ends || [String(xs[0]), String(xs.at(-1))];
    nodes.push(words(left, y + 12, first, { 'font-size': 11, fill: ink.quiet }), words(width - right, y + 12, last, { 'font-size': 11, fill: ink.quiet, 'text-anchor': 'end' }));
    nodes.push(words((left + width - right) / 2, y + 12, title, { 'font-size': 11, fill: ink.quiet, 'text-anchor': 'middle' }));
    return { height: y + 20, nodes };
  };
}

// Dots on one scale, a strip a row: {label, dots: [[value, tip]], colour}; `rule` draws a line at a value.
function strips(rows, [low, high], { format, rule } = {}) {
  return (width, ink) => {
    const nodes = [], left = 6, x = (v) => left + (width - 2 * left) * (Math.min(high, Math.max(low, v)) - low) / (high - low);
    rows.forEach((row, n) => {
      const y = n * 44;
      nodes.push(words(0, y + 13, row.label, { 'font-size': 12, 'font-weight': 600 }));
      nodes.push(mark('line', { x1: left, x2: width - left, y1: y + 28, y2: y + 28, stroke: ink.line }));
      for (const [value, said] of row.dots) {
        const dot = mark('circle', { cx: x(value), cy: y + 28, r: 5, fill: ink[row.colour || 'quiet'], opacity: row.dots.length > 1 ? 0.65 : 1, stroke: ink.paper });
        nodes.push(tip(dot, said || format(value)));
      }
    });
    const bottom = rows.length * 44;
    if (rule !== undefined) nodes.unshift(mark('line', { x1: x(rule), x2: x(rule), y1: 16, y2: bottom, stroke: ink.quiet, 'stroke-dasharray': '3 3' }));
    for (const [v, anchor] of [[low, 'start'], [(low + high) / 2, 'middle'], [high, 'end']]) {
      nodes.push(words(anchor === 'start' ? 0 : anchor === 'end' ? width : x(v), bottom + 10, format(v), { 'font-size': 11, fill: ink.quiet, 'text-anchor': anchor }));
    }
    return { height: bottom + 16, nodes };
  };
}

// Squares by layer and head, darker where the value is higher.
function heat(grid, { format = (v) => asPercent(v, 1) } = {}) {
  return (width, ink) => {
    const left = 62, top = 26, count = grid[0].length, nodes = [];
    const wide = Math.min(54, (width - left) / count), tall = Math.max(10, Math.min(30, wide));
    const most = Math.max(1e-9, ...grid.flat());
    nodes.push(words(left, 14, 'head 1 … ' + count, { 'font-size': 12, fill: ink.quiet }));
    grid.forEach((row, layer) => {
      const y = top + layer * tall;
      if (tall >= 12 || layer % 2 === 0) nodes.push(words(left - 8, y + tall / 2 + 4, 'layer ' + (layer + 1), { 'font-size': Math.min(12, tall), fill: ink.quiet, 'text-anchor': 'end' }));
      row.forEach((value, head) => {
        const x = left + head * wide, name = 'layer ' + (layer + 1) + ', head ' + (head + 1) + ': ' + format(value);
        nodes.push(tip(mark('rect', { x: x + 1, y: y + 1, width: wide - 2, height: tall - 2, rx: 2, fill: ink.accent, 'fill-opacity': 0.04 + 0.96 * value / most, stroke: ink.line }), name));
        if (wide > 40 && tall > 20) {
          const on = value / most > 0.55 ? ink.paper : ink.text;
          nodes.push(words(x + wide / 2, y + tall / 2 + 4, asPercent(value), { 'font-size': 11, 'text-anchor': 'middle', fill: on, 'pointer-events': 'none' }));
        }
      });
    });
    const height = top + grid.length * tall + 22;
    nodes.push(words(left, height - 6, 'darkest: ' + format(most), { 'font-size': 11, fill: ink.quiet }));
    return { height, nodes };
  };
}

// Words with a bar to the right (raised) or to the left (lowered) of the middle.
function shifts(rows) {
  return (width, ink) => {
    const nodes = [], middle = width / 2, most = Math.max(1e-9, ...rows.map(([, v]) => Math.abs(v)));
    const long = middle - 50;
    rows.forEach(([word, value], n) => {
      const y = n * 22, size = long * Math.abs(value) / most, up = value > 0;
      nodes.push(mark('rect', { x: up ? middle : middle - size, y: y + 5, width: size, height: 11, rx: 2, fill: up ? ink.accent : ink.near, opacity: 0.85 }));
      const [text] = lines(word, middle - 14, 13, ink.family, 1);
      nodes.push(tip(words(up ? middle - 8 : middle + 8, y + 15, text, { 'text-anchor': up ? 'end' : 'start' }), word));
      nodes.push(words(up ? middle + size + 6 : middle - size - 6, y + 15, (up ? '+' : '−') + Math.abs(value).toFixed(1), { 'font-size': 11, fill: ink.quiet, 'text-anchor': up ? 'start' : 'end' }));
    });
    nodes.push(mark('line', { x1: middle, x2: middle, y1: 0, y2: rows.length * 22, stroke: ink.quiet }));
    return { height: rows.length * 22 + 4, nodes };
  };
}

// Two prompts on one basis: circles and squares, matched ones joined.
function sideBySide([first, second], matches, explained) {
  return (width, ink) => {
    const tall = Math.min(340, Math.max(220, width * 0.7)), pad = 22, nodes = [];
    const all = [...first, ...second];
    const [x0, x1] = span(all.map((p) => p[0])), [y0, y1] = span(all.map((p) => p[1]));
    const at = ([x, y]) => [pad + (width - 2 * pad) * (x - x0) / (x1 - x0), pad + (tall - 2 * pad) * (y1 - y) / (y1 - y0)];
    nodes.push(mark('rect', { x: 0.5, y: 0.5, width: width - 1, height: tall - 1, rx: 8, fill: 'none', stroke: ink.line }));
    for (const match of matches) {
      const [a, b] = [at(first[match.first]), at(second[match.second])];
      nodes.push(mark('line', { x1: a[0], y1: a[1], x2: b[0], y2: b[1], stroke: ink.quiet, opacity: 0.2 + 0.8 * Math.max(0, match.cosine) }));
    }
    const small = all.length > 80;
    for (const [side, points] of [first, second].entries()) {
      points.forEach((point, i) => {
        const [x, y] = at(point), colour = side ? ink.near : ink.accent, r = small ? 4 : 9;
        const dot = side ? mark('rect', { x: x - r, y: y - r, width: 2 * r, height: 2 * r, rx: 2, fill: colour }) : mark('circle', { cx: x, cy: y, r, fill: colour });
        nodes.push(tip(dot, (side ? 'second' : 'this') + ' prompt, virtual token ' + (i + 1)));
        if (!small) nodes.push(words(x, y + 4, String(i + 1), { 'font-size': 10, 'text-anchor': 'middle', fill: ink.paper, 'pointer-events': 'none' }));
      });
    }
    nodes.push(words(0, tall + 16, 'PC 1 and 2 of the vocabulary: ' + asPercent(explained[0] + explained[1], 1) + ' of its variance', { 'font-size': 11, fill: ink.quiet }));
    return { height: tall + 22, nodes };
  };
}

// ------------------------------------------------------------------ files

function saveFile(name, blob) {
  const link = make('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Every picture of a card in one SVG, one under another, on the card's paper.
function together(hosts) {
  const parts = hosts.map((host) => host.querySelector('svg')).filter(Boolean);
  const width = Math.max(...parts.map((svg) => svg.width.baseVal.value));
  const sheet = mark('svg', { xmlns: SVG, 'font-family': parts[0].getAttribute('font-family'), 'font-size': 13, fill: parts[0].getAttribute('fill') });
  const pad = 16;
  let y = pad;
  for (const svg of parts) {
    const copy = svg.cloneNode(true);
    copy.setAttribute('x', pad);
    copy.setAttribute('y', y);
    sheet.append(copy);
    y += svg.height.baseVal.value + pad;
  }
  const size = { width: width + 2 * pad, height: y };
  for (const [name, value] of Object.entries(size)) sheet.setAttribute(name, value);
  sheet.prepend(mark('rect', { ...size, fill: shade(hosts[0], '--sp-paper') }));
  return { text: new XMLSerializer().serializeToString(sheet), ...size };
}

function saveSvg(name, hosts) {
  saveFile(name + '.svg', new Blob([together(hosts).text], { type: 'image/svg+xml' }));
}

async function savePng(name, hosts) {
  const { text, width, height } = together(hosts);
  const image = new Image();
  image.src = 'data:image/svg+xml;charset=utf-8,' + encodeURIComponent(text);
  await image.decode();
  const canvas = Object.assign(make('canvas'), { width: 2 * width, height: 2 * height });
  canvas.getContext('2d').drawImage(image, 0, 0, 2 * width, 2 * height);
  canvas.toBlob((blob) => saveFile(name + '.png', blob));
}
