// The panes of a comparison, one an arm: an initialisation or a method. `props.value` is the group's id; the server sends only the runs
// that have changed since the stamps the page holds. All maps share axes and ranges.

const TICK = 2000;
const MOST_NUMBERS = 40;
// As in the loss chart: one colour and symbol an arm, in the order of the runs; a dash too where each has one run.
const COLOURS = ['#0d9488', '#d97706', '#4f6fd8', '#c2417f', '#6b8e23', '#8b5cf6', '#0891b2', '#b45309'];
const DASHES = ['none', '7 5', '2 4', '9 4 2 4', '13 5', '13 4 3 4'];
const STARTS = {
  text: 'Starts at the words of the hand-written prompt.',
  sampled_vocab: 'Starts at random words of the vocabulary.',
  random: 'Starts at random numbers as wide as the vocabulary.',
  random_uniform: 'Starts at random numbers between two limits.',
  peft_random: 'Starts as PEFT draws it.',
  class_labels: 'Starts at the words of the labels.',
  first_rows: 'Starts at the first rows of the vocabulary.',
  from_run: 'Starts at the prompt of another run.',
};
const METHODS = {
  prefix: 'Keys and values before the text, in every layer.',
  p_tuning: 'Virtual tokens that a small network makes.',
  lora: 'Small matrices beside the model’s weights.',
  full: 'Every weight of a copy of the model.',
};
const at = (selector) => element.querySelector(selector);
const state = { group: null, runs: new Map(), order: [], panes: new Map(), ended: false, cloud: null, busy: false, again: false };

function say(title, text) {
  const note = at('.sp-in-note');
  note.replaceChildren(...(title ? [make('b', '', title)] : []), ...(text ? [make('p', '', text)] : []));
  note.hidden = !title && !text;
}

async function load() {
  if (state.busy) { state.again = true; return; }
  state.busy = true;
  try {
    const group = props.value || '';
    if (group !== state.group) reset(group);
    if (!group) return idle();
    if (!state.runs.size) say('Reading…', 'The first look at a base model opens its vocabulary; that takes a moment.');
    const seen = Object.fromEntries([...state.runs].map(([id, run]) => [id, run.stamp]));
    const news = await ask(server.news, { group, seen });
    if (group !== (props.value || '')) { state.again = true; return; }
    if (news) await take(news);
  } catch (error) {
    console.error(error);
  } finally {
    state.busy = false;
    if (state.again) { state.again = false; load(); }
  }
}

function reset(group) {
  Object.assign(state, { group, runs: new Map(), order: [], ended: false, range: null });
  for (const pane of state.panes.values()) if (window.Plotly && pane.drawn) window.Plotly.purge(pane.plot);
  state.panes = new Map();
  at('.sp-cmp-panes').replaceChildren();
  at('.sp-cmp-verdict').hidden = true;
  at('.sp-cmp-body').hidden = true;
}

function idle() {
  say('Nothing compared yet', 'Press “Compare initialisations”: random, text and sampled vocab then train on the same batches, and their curves, words and places appear here. “The field’s comparison” sets soft prompts beside other methods.');
}

async function take(news) {
  if (news.empty) return idle();
  if (news.error) return say('This comparison cannot be read', news.error);
  say('', '');
  at('.sp-cmp-body').hidden = false;
  state.order = news.order;
  state.ended = news.ended;
  for (const run of news.runs) state.runs.set(run.id, { ...state.runs.get(run.id), ...run });
  const arms = [...new Set(state.order.map((id) => state.runs.get(id).arm))];
  arms.forEach((arm, n) => { if (!state.panes.has(arm)) state.panes.set(arm, newPane(runsOf(arm), n)); });
  const changed = new Set(news.runs.map((run) => run.arm));
  for (const arm of changed) fillPane(state.panes.get(arm));
  if (news.summary) showVerdict(news.summary);
  if (news.runs.some((run) => run.xy)) await drawMaps(changed);
}

const runsOf = (arm) => state.order.map((id) => state.runs.get(id)).filter((run) => run.arm === arm);

function showVerdict({ rows, verdict, interval }) {
  at('.sp-cmp-verdict').hidden = false;
  at('.sp-cmp-verdict p').textContent = verdict;
  at('.sp-cmp-interval').textContent = interval ? ', 95 % ' + interval : '';
  const shares = rows.flatMap((row) => [row.mean, row.low, row.high, ...row.dots.map(([, share]) => share)]).filter((v) => v !== null);
  const low = Math.floor(10 * Math.min(...shares, 1)) / 10, high = Math.max(low + 0.1, Math.ceil(10 * Math.max(...shares, 0)) / 10);
  at('.sp-cmp-axis').replaceChildren(make('span', '', asPercent(low)), make('span', '', asPercent((low + high) / 2)), make('span', '', asPercent(high)));
  const place = (share) => (100 * (share - low) / (high - low)).toFixed(2) + '%';
  at('.sp-cmp-verdict tbody').replaceChildren(...rows.map((row) => {
    const line = make('tr', row.is_arm ? '' : 'is-base');
    const name = make('th');
    name.scope = 'row';
    const pane = state.panes.get(row.name);
    if (row.is_arm && pane) { line.style.setProperty('--sp-mine', pane.colour); name.append(make('i', 'key')); }
    name.append(row.name);
    const [accuracy, ...others] = row.cells.map((cell) => make('td', '', cell));
    const picture = make('td', 'picture');
    picture.append(spreadOf(row, place));
    line.append(name, accuracy, picture, ...others);
    return line;
  }));
}

// One row's accuracy: the interval as a bar, its mean as a diamond, each seed as a dot; without training a hollow one.
function spreadOf(row, place) {
  const box = make('div', 'sp-cmp-scale');
  const mark = (kind, share, title) => {
    const node = make('i', kind);
    node.style.left = place(share);
    node.title = title;
    box.append(node);
    return node;
  };
  if (row.mean === null) return box;
  if (row.low !== null) mark('spread', row.low, '95 % interval').style.width = 'calc(' + place(row.high) + ' - ' + place(row.low) + ')';
  if (row.dots.length > 1) for (const [seed, share] of row.dots) mark('seed', share, 'seed ' + seed + ': ' + asPercent(share, 1));
  mark(row.is_arm ? 'dot' : 'dot base', row.mean, asPercent(row.mean, 1));
  return box;
}

// ---------------------------------------------------------------- one pane

function newPane(runs, n) {
  const { arm, init, method } = runs[0];
  const root = make('article', 'sp-in-card sp-cmp-pane');
  const colour = COLOURS[n % COLOURS.length];
  root.setAttribute('aria-label', arm);
  root.dataset.arm = arm;
  root.style.setProperty('--sp-mine', colour);
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 34 8');
  svg.setAttribute('aria-hidden', 'true');
  const line = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  line.setAttribute('d', 'M1 4H33');
  if (runs.length === 1) line.setAttribute('stroke-dasharray', DASHES[n % DASHES.length]);
  svg.append(line);
  const head = make('header');
  const title = make('h3', '', arm);
  head.append(svg, title);
  const status = make('span', 'sp-in-pill');
  head.append(status);
  const seeds = make('div', 'sp-cmp-seeds');
  seeds.setAttribute('role', 'group');
  seeds.setAttribute('aria-label', 'Seed shown');
  const score = make('p', 'sp-cmp-score');
  const scale = make('div', 'sp-cmp-scale');
  const line2 = make('p', 'sp-cmp-line');
  const stage = make('div', 'sp-in-stage sp-cmp-stage');
  const plot = make('div', 'sp-in-plot');
  const name = make('span', 'sp-in-name');
  name.hidden = true;
  stage.append(make('canvas'), plot, name);
  const caption = make('p', 'sp-in-sub sp-cmp-words-head');
  const words = make('ol', 'sp-cmp-words');
  root.append(head, make('p', 'sp-in-sub', METHODS[method] || STARTS[init] || ''), score, scale, line2, seeds, stage, caption, words);
  at('.sp-cmp-panes').append(root);
  return { arm, colour, root, status, seeds, score, scale, line: line2, stage, plot, caption, words, drawn: false, shown: null };
}

function fillPane(pane) {
  const runs = runsOf(pane.arm);
  if (!runs.some((run) => run.id === pane.shown)) pane.shown = runs[0].id;
  const run = state.runs.get(pane.shown);
  pane.status.textContent = run.status === 'running' ? 'step ' + run.step + ' of ' + run.steps : run.status;
  pane.status.dataset.status = run.status;
  fillSeeds(pane, runs);
  const tested = run.accuracy !== null;
  const live = run.status === 'running' || run.status === 'queued' || run.status === 'paused';
  pane.score.replaceChildren(make('b', '', asPercent(tested ? run.accuracy : run.validation, 1)),
    make('span', '', (tested ? 'test accuracy' : live ? 'validation accuracy so far' : 'last validation accuracy')
      + (tested && run.low !== null ? ', 95 % between ' + asPercent(run.low) + ' and ' + asPercent(run.high) : '')));
  pane.line.textContent = run.line;
  pane.line.hidden = live;
  fillScale(pane, run);
  fillWords(pane, run);
}

function fillSeeds(pane, runs) {
  pane.seeds.hidden = runs.length < 2;
  if (pane.seeds.children.length !== runs.length) {
    pane.seeds.replaceChildren(...runs.map((run) => {
      const button = make('button', '', 'seed ' + run.seed);
      button.type = 'button';
      button.addEventListener('click', () => { pane.shown = run.id; fillPane(pane); drawMaps(new Set([pane.arm])); });
      return button;
    }));
  }
  [...pane.seeds.children].forEach((button, n) => {
    button.setAttribute('aria-pressed', String(runs[n].id === pane.shown));
    button.textContent = 'seed ' + runs[n].seed + (runs[n].accuracy === null ? '' : ' · ' + asPercent(runs[n].accuracy));
  });
}

// Accuracy from 0 to 100 %: a bar for the interval, a diamond for the prompt, ticks for the baselines named below.
function fillScale(pane, run) {
  pane.scale.hidden = run.accuracy === null;
  if (run.accuracy === null) return;
  const place = (share) => (100 * share).toFixed(2) + '%';
  const marks = run.baselines.map(([title, share]) => {
    const mark = make('i', 'tick');
    mark.style.left = place(share);
    mark.title = title + ' ' + asPercent(share, 1);
    return mark;
  });
  const spread = make('i', 'spread');
  spread.style.left = place(run.low ?? run.accuracy);
  spread.style.width = place((run.high ?? run.accuracy) - (run.low ?? run.accuracy));
  const dot = make('i', 'dot');
  dot.style.left = place(run.accuracy);
  pane.scale.replaceChildren(...marks, spread, dot);
  pane.scale.setAttribute('role', 'img');
  pane.scale.setAttribute('aria-label', run.line);
}

function fillWords(pane, run) {
  pane.stage.hidden = Boolean(run.no_tokens);
  if (run.no_tokens) {
    pane.caption.textContent = run.no_tokens;
    pane.words.replaceChildren();
    return;
  }
  if (!run.words) {
    pane.caption.textContent = 'Its words appear after the first steps.';
    pane.words.replaceChildren();
    return;
  }
  const weak = run.words.filter(([, , z]) => z !== null && z < WEAK_Z).length;
  const echo = run.words.filter((word) => word[3] === true).length;
  pane.caption.textContent = 'Nearest words at step ' + run.prompt_step + ': ' + (run.words.length - weak) + ' of ' + run.words.length
    + ' stand above chance (the others are dotted)' + (run.words.some((word) => word[3] !== null) ? ', ' + echo + ' only echo the start (↺)' : '') + '.';
  while (pane.words.children.length > run.words.length) pane.words.lastChild.remove();
  run.words.forEach(([word, score, z, echoes, others], n) => {
    const item = pane.words.children[n] || pane.words.appendChild(make('li'));
    const chance = z !== null && z < WEAK_Z;
    item.className = chance ? 'is-weak' : '';
    item.replaceChildren(make('span', 'n', String(n + 1)), make('b', '', word), make('span', 's', twoDigits(score)),
      ...(echoes ? [make('span', 'echo', '↺')] : []), ...(chance ? [make('span', 'sp-cmp-hush', 'chance')] : []));
    item.title = others.length ? 'then ' + others.join('  ') : '';
  });
}

// ---------------------------------------------------------------- the maps

const pairs = (xy) => { const points = []; for (let n = 0; n < xy.length; n += 2) points.push([xy[n], xy[n + 1]]); return points; };

async function drawMaps(changed) {
  const Plotly = await withPlotly();
  const first = [...state.runs.values()].find((run) => run.key);
  if (!first) return;
  const cloud = await cloudOf(server.cloud, first.key);
  if (!cloud || cloud.error) return;
  at('.sp-cmp-caption').textContent = 'All panes have the same axes, fixed by the vocabulary: PC 1 (' + asPercent(first.explained[0], 1) + ') across, PC 2 ('
    + asPercent(first.explained[1], 1) + ') up, ' + asPercent(first.explained[0] + first.explained[1], 1) + ' of its variance together, so places are hints. '
    + cloud.drawn.toLocaleString('en') + ' of ' + cloud.listed.toLocaleString('en') + ' words drawn as dust. Hollow: z below 3. Open a run in Inspect for all neighbours.';
  let range = state.range || { x: span(cloud.xyz[0]), y: span(cloud.xyz[1]) };
  const before = JSON.stringify(state.range);
  for (const run of state.runs.values()) {
    if (!run.xy) continue;
    const points = pairs(run.xy);
    range = { x: join(range.x, span(points.map((p) => p[0]), 0.03)), y: join(range.y, span(points.map((p) => p[1]), 0.03)) };
  }
  state.range = range;
  const all = before !== JSON.stringify(range);
  for (const pane of state.panes.values()) {
    if (pane.stage.hidden) continue;
    if (all || changed.has(pane.arm) || !pane.drawn) await drawMap(Plotly, pane, cloud);
  }
}

function mapTrace(pane) {
  const run = state.runs.get(pane.shown);
  const points = run && run.xy ? pairs(run.xy) : [];
  const accent = getComputedStyle(pane.root).getPropertyValue('--sp-mine');
  const paper = shade(pane.root, '--sp-paper'), ink = shade(pane.root, '--sp-ink');
  const weak = points.map((_, n) => run.words[n][2] !== null && run.words[n][2] < WEAK_Z);
  const numbered = points.length <= MOST_NUMBERS;
  return {
    x: points.map((p) => p[0]), y: points.map((p) => p[1]), mode: 'markers+text', type: 'scatter', cliponaxis: false,
    text: points.map((_, n) => (numbered ? String(n + 1) : '')), textposition: 'middle center',
    hovertext: points.map((_, n) => '<b>virtual token ' + (n + 1) + '</b><br>' + plain(run.words[n][0]) + ' ' + twoDigits(run.words[n][1])),
    hovertemplate: '%{hovertext}<extra></extra>',
    textfont: { family: getComputedStyle(element).fontFamily, size: 10, color: weak.map((w) => (w ? ink : '#fff')) },
    marker: { size: numbered ? 16 : 7, color: weak.map((w) => (w ? paper : accent)), line: { width: 1.5, color: weak.map((w) => (w ? accent : paper)) } },
  };
}

async function drawMap(Plotly, pane, cloud) {
  const axis = { showgrid: false, showticklabels: false, ticks: '', zeroline: true, zerolinecolor: shade(pane.root, '--sp-line'), fixedrange: true };
  const layout = {
    margin: { l: 2, r: 2, t: 2, b: 2 }, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', showlegend: false, hovermode: 'closest',
    dragmode: false, xaxis: { ...axis, range: state.range.x }, yaxis: { ...axis, range: state.range.y },
    hoverlabel: { bgcolor: shade(pane.root, '--sp-paper'), bordercolor: shade(pane.root, '--sp-line'), font: { color: shade(pane.root, '--sp-ink') } },
  };
  await Plotly.react(pane.plot, [mapTrace(pane)], layout, { displayModeBar: false, responsive: true });
  if (!pane.drawn) {
    pane.drawn = true;
    pane.dust = makeDust(pane.stage, pane.plot, () => {});
    pane.dust.follow();
  }
  pane.dust.show(cloud, false);
}

onTheme(element, () => state.panes.size && drawMaps(new Set(state.panes.keys())));
watch('value', () => { if ((props.value || '') !== state.group) load(); });
const beat = setInterval(() => {
  if (!element.isConnected) return clearInterval(beat);
  if (isSeen(element) && ((!state.ended && state.group) || (props.value || '') !== state.group)) load();
}, TICK);
load();
