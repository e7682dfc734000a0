// Runs once per chart component. In scope: element, props, server, watch (see gr.HTML's js_on_load).
// The chart keeps what it has and asks only for newer points; zoom survives because traces are extended in place.
const chart = element.querySelector('.sp-chart');
const tiles = element.querySelector('.sp-tiles');
const empty = element.querySelector('.sp-chart-empty');
const COLOURS = ['#0d9488', '#d97706', '#4f6fd8', '#c2417f', '#6b8e23', '#8b5cf6', '#0891b2', '#b45309'];
const DASHES = ['solid', 'dash', 'dot', 'dashdot', 'longdash', 'longdashdot'];
const SYMBOLS = ['diamond', 'circle', 'square', 'triangle-up', 'x', 'star'];
const MOST_POINTS = 4000;   // past this a series is fetched afresh, thinned
const WAIT = 1000;
const REST = 10000;         // an ended run may be resumed, here or from the command line
const FONT = {color: '#808894', size: 12, family: 'ui-sans-serif, system-ui, sans-serif'};

let ids = [], runs = new Map(), drawn = false, busy = false, timer = null, again = false;

const escapeText = text => String(text ?? '').replace(/&/g, '&amp;').replace(/</g, '&lt;');
const wanted = () => { try { return JSON.parse(props.value || '[]'); } catch { return []; } };
const sleep = ms => new Promise(done => setTimeout(done, ms));

function blank(id) { return {id, cursor: 0, evals: 0, points: 0, ended: false, idle: 0}; }

function restart() {
  ids = wanted();
  runs = new Map(ids.map(id => [id, blank(id)]));
  drawn = false;
  again = true;
  clearTimeout(timer);
  tick();
}

// What a run is called in a comparison: its initialisation, or where methods are compared, its method.
function armOf(run) {
  const all = ids.map(id => runs.get(id));
  const init = (run.init ?? '').replace(/_/g, ' ');
  if (all.every(other => other.method === run.method)) return init;
  const inits = new Set(all.filter(other => other.method === run.method).map(other => other.init));
  return run.method + (inits.size > 1 ? ` · ${init}` : '');
}

// One colour and symbol an arm. The dash tells arms apart too where each has one run, else the seeds of an arm.
function looks() {
  const arms = [...new Set(ids.map(id => armOf(runs.get(id))))];
  const seeds = [...new Set(ids.map(id => runs.get(id).seed))];
  const bySeed = arms.length > 1 && seeds.length > 1;
  return new Map(ids.map((id, i) => {
    const run = runs.get(id), arm = arms.length > 1 ? arms.indexOf(armOf(run)) : i;
    const dash = bySeed ? seeds.indexOf(run.seed) : arm;
    return [id, {colour: COLOURS[arm % COLOURS.length], dash: DASHES[dash % DASHES.length], symbol: SYMBOLS[arm % SYMBOLS.length]}];
  }));
}

function traces() {
  const style = looks(), alone = ids.length === 1, found = [], named = new Set();
  const isShort = chart.clientWidth < 600 && ids.length > 4;      // no room for every seed's name
  for (const id of ids) {
    const run = runs.get(id), look = style.get(id), arm = armOf(run);
    const label = alone ? '' : escapeText(isShort ? arm : `${arm} · seed ${run.seed}`);
    const isNamed = !isShort || !named.has(arm);
    named.add(arm);
    const hover = alone ? '' : `<br>${escapeText(run.name)}`;
    run.trace = {};
    if (alone) {
      run.trace.raw = found.length;
      found.push({x: run.x ?? [], y: run.y ?? [], mode: 'lines', name: 'train, each step', opacity: 0.35,
        line: {color: FONT.color, width: 1}, hovertemplate: 'step %{x}: %{y:.4f}<extra>one step</extra>'});
    }
    run.trace.smooth = found.length;
    found.push({x: run.sx ?? [], y: run.sy ?? [], mode: 'lines', legendgroup: id,
      name: alone ? `train, mean of ${run.window ?? 'some'} steps` : label, showlegend: isNamed,
      line: {color: look.colour, width: 2, dash: look.dash},
      hovertemplate: `step %{x}: %{y:.4f}<extra>train, smoothed${hover}</extra>`});
    run.trace.validation = found.length;
    found.push({x: run.vx ?? [], y: run.vy ?? [], customdata: run.va ?? [], mode: 'markers', legendgroup: id,
      name: 'validation', showlegend: alone,
      marker: {color: alone ? '#d97706' : look.colour, symbol: look.symbol, size: 9, line: {width: 1, color: '#fff'}},
      hovertemplate: `step %{x}: %{y:.4f}<br>accuracy %{customdata:.1%}<extra>validation${hover}</extra>`});
  }
  return found;
}

function layout() {
  const grid = 'rgba(128,136,148,0.22)';
  const axis = {gridcolor: grid, zeroline: false, linecolor: grid, automargin: true};
  return {
    height: props.height || 320, margin: {l: 48, r: 12, t: 8, b: 40}, font: FONT,
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', uirevision: ids.join(' '), hovermode: 'closest',
    xaxis: {...axis, title: {text: 'step', standoff: 6}, rangemode: 'tozero'},
    yaxis: {...axis, title: {text: 'loss (nats per label token)', standoff: 8}},
    legend: {orientation: 'h', x: 0, y: 1.02, yanchor: 'bottom', bgcolor: 'rgba(0,0,0,0)'}, showlegend: true,
  };
}

async function draw() {
  const options = {responsive: true, displaylogo: false,
    modeBarButtonsToRemove: ['select2d', 'lasso2d', 'autoScale2d']};
  await window.Plotly.react(chart, traces(), layout(), options);
  drawn = true;
}

async function extend(news) {
  const x = [], y = [], where = [], extra = [];
  for (const item of news) {
    const run = runs.get(item.id);
    if (item.x) {
      if (run.trace.raw !== undefined) { x.push(item.x); y.push(item.y); where.push(run.trace.raw); extra.push([]); }
      x.push(item.sx); y.push(item.sy); where.push(run.trace.smooth); extra.push([]);
    }
    if (item.vx) { x.push(item.vx); y.push(item.vy); where.push(run.trace.validation); extra.push(item.va); }
  }
  const plain = where.map((t, i) => i).filter(i => !extra[i].length), full = where.map((t, i) => i).filter(i => extra[i].length);
  const pick = (list, which) => which.map(i => list[i]);
  if (plain.length) await window.Plotly.extendTraces(chart, {x: pick(x, plain), y: pick(y, plain)}, pick(where, plain));
  if (full.length) await window.Plotly.extendTraces(chart,
    {x: pick(x, full), y: pick(y, full), customdata: pick(extra, full)}, pick(where, full));
}

function keep(item) {
  const run = runs.get(item.id);
  for (const key of ['status', 'step', 'steps', 'name', 'method', 'init', 'seed', 'device', 'lr', 'loss', 'tps', 'left', 'window'])
    if (item[key] !== undefined) run[key] = item[key];
  if (item.vy?.length) run.validation = item.vy[item.vy.length - 1];
  run.cursor = item.cursor ?? run.cursor;
  run.evals = item.evals ?? run.evals;
  run.points += item.x?.length ?? 0;
  run.idle = item.x || item.vx ? 0 : run.idle + 1;
  run.ended = Boolean(item.gone || item.ended) && !item.x && !item.vx;
}

function duration(seconds) {
  if (seconds === undefined) return '–';
  const s = Math.round(seconds);
  return s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor(s % 3600 / 60)} min`;
}

const SIGNS = {queued: '◷', running: '●', paused: 'Ⅱ', done: '✓', stopped: '■', interrupted: '⚠', failed: '✕'};

function showTiles() {
  const run = runs.get(ids[0]);
  if (!props.tiles) return;
  if (!run?.status) { tiles.replaceChildren(); return; }
  const active = ['queued', 'running', 'paused'].includes(run.status);
  const number = (value, digits) => value === undefined ? '–' : value.toFixed(digits);
  const entries = [
    ['status', run.status === 'running' && run.step >= run.steps ? '● testing' : `${SIGNS[run.status] ?? ''} ${run.status}`],
    ['step', `${run.step} / ${run.steps}`],
    ['train loss', number(run.loss, 3)],
    ['validation loss', number(run.validation, 3)],
    ['learning rate', run.lr === undefined ? '–' : run.lr.toPrecision(2)],
    ['tokens/s', run.tps === undefined ? '–' : run.tps.toLocaleString('en')],
    ['time left', active ? duration(run.left) : '–'],
    ['device', run.device || '–'],
  ];
  while (tiles.children.length < entries.length) {
    const box = document.createElement('div');
    box.append(document.createElement('dt'), document.createElement('dd'));
    tiles.append(box);
  }
  entries.forEach(([name, value], i) => {
    const [dt, dd] = tiles.children[i].children;
    dt.textContent = name;
    if (dd.textContent !== value) dd.textContent = value;
  });
  tiles.firstChild.dataset.status = run.status;
  chart.style.setProperty('--share', run.steps ? run.step / run.steps : 0);
}

function say(text) { empty.textContent = text; empty.hidden = !text; chart.hidden = Boolean(text) && !drawn; }

async function refetch(id) {
  Object.assign(runs.get(id), {cursor: 0, evals: 0, points: 0});
  const {runs: [item]} = await server.since([[id, 0, 0]]);
  if (!runs.has(id) || item.gone) return;
  keep(item);
  const {trace} = runs.get(id), x = [item.sx ?? []], y = [item.sy ?? []], where = [trace.smooth];
  if (trace.raw !== undefined) { x.push(item.x ?? []); y.push(item.y ?? []); where.push(trace.raw); }
  if (item.vx) { x.push(item.vx); y.push(item.vy); where.push(trace.validation); }
  await window.Plotly.restyle(chart, {x, y}, where);
  if (item.vx) await window.Plotly.restyle(chart, {customdata: [item.va]}, [trace.validation]);
}

async function look() {
  while (!window.Plotly) await sleep(50);
  const mine = ids;
  const open = mine.filter(id => !runs.get(id).ended);
  if (!open.length) open.push(...mine);
  const {runs: news} = await server.since(open.map(id => [id, runs.get(id).cursor, runs.get(id).evals]));
  if (mine !== ids) return;
  for (const item of news) {
    const isBack = item.step < runs.get(item.id).cursor;    // resumed from an earlier checkpoint, or begun anew
    keep(item);
    if (isBack && drawn) { await refetch(item.id); item.x = item.vx = undefined; }
    if (!drawn) Object.assign(runs.get(item.id), {x: item.x, y: item.y, sx: item.sx, sy: item.sy, vx: item.vx, vy: item.vy, va: item.va});
  }
  const any = ids.some(id => runs.get(id).cursor || runs.get(id).evals);
  if (!drawn && any) {
    chart.hidden = false;
    await draw();
  } else if (drawn) await extend(news.filter(item => item.x || item.vx));
  for (const id of ids) if (runs.get(id).points > MOST_POINTS) await refetch(id);
  showTiles();
  const states = ids.map(id => runs.get(id).status);
  say(any ? '' : states.every(s => s === 'queued') ? 'Waiting to start: right after the runs before it, if there are any.'
    : states.some(s => s === 'running') ? 'The model is being read; the first steps follow in a moment.'
    : 'This run ended before its first step. Its log says why.');
}

async function tick() {
  if (busy) return;
  busy = true;
  let wait = WAIT;
  try {
    again = false;
    if (!document.hidden) await look();
  } catch (error) {
    wait = 4 * WAIT;   // the server is away; the points are safe in the store
  } finally {
    busy = false;
  }
  if (!element.isConnected) return stop();
  const open = ids.some(id => !runs.get(id).ended);
  if (again) tick(); else if (ids.length) timer = setTimeout(tick, open ? wait : REST);
}

const onShow = () => { if (!document.hidden && ids.length) { clearTimeout(timer); tick(); } };
const sized = new ResizeObserver(() => { if (drawn && chart.clientWidth) window.Plotly.Plots.resize(chart); });
function stop() {
  clearTimeout(timer);
  document.removeEventListener('visibilitychange', onShow);
  window.removeEventListener('sp-look', onShow);
  sized.disconnect();
}

document.addEventListener('visibilitychange', onShow);
window.addEventListener('sp-look', onShow);     // a button has set runs going again
sized.observe(element);
watch('value', () => { if (JSON.stringify(wanted()) !== JSON.stringify(ids)) { clearChart(); restart(); } });

function clearChart() {
  if (drawn) window.Plotly.purge(chart);
  chart.hidden = true;
  drawn = false;
  tiles.replaceChildren();
  say(wanted().length ? '' : props.empty);
}

chart.hidden = true;
say(wanted().length ? '' : props.empty);
if (wanted().length) restart();
