// The map: the vocabulary as dust (a canvas, or points in 3-D), the prompt on top in Plotly. Built once; afterwards
// only traces change (Plotly.restyle), so zoom and camera stay. Coordinates are whole numbers on the server's grid.

const DUST = 0, PATHS = 1, WORDS = 2, SPOKES = 3, WAY = 4, LIT = 5, FOUND = 6, TOKENS = 7;
const MOVING = [PATHS, WORDS, SPOKES, WAY, LIT, FOUND, TOKENS];
const TIMED = [PATHS, SPOKES, WAY, TOKENS];
const MOST_PATHS = 3000; // points of all ways together; beyond that only the chosen token's is drawn
const MOST_NUMBERED = 60;

function makeMap(host, onPick, onWord) {
  const div = host.querySelector('.sp-in-plot');
  const dust = makeDust(host, div, onWord);
  let cloud = null, reading = null, frame = 0, picked = null, dims = 2, only = false;
  let found = [], built = false, building = null, labelTimer = null;

  const place = (k, i) => {
    const { xyz, dims: d } = reading.frames;
    const at = i * d;
    return [xyz[k][at], xyz[k][at + 1], d > 2 ? xyz[k][at + 2] : 0];
  };
  const column = (points) => {
    const axes = [points.map((p) => p && p[0]), points.map((p) => p && p[1])];
    return dims === 3 ? [...axes, points.map((p) => p && p[2])] : axes;
  };
  const known = (id) => reading.words[id].slice(1);
  const isWeak = (token) => token.z !== null && token.z < WEAK_Z;

  // The chosen token is drawn last, above the others.
  const ordered = () => [...reading.tokens].sort((a, b) => (a.i === picked) - (b.i === picked));

  // ------------------------------------------------------------- the traces

  function deepDust() {
    if (only || dims === 2) return { points: [], text: [] };
    const [x, y, z] = cloud.xyz;
    return { points: x.map((_, n) => [x[n], y[n], z ? z[n] : 0]), text: cloud.text.map(plain) };
  }

  function parts() {
    const { tokens, words } = reading;
    const chosen = picked === null ? null : tokens[picked];
    const ids = Object.keys(words);
    const paths = [], way = [];
    if (tokens.length * (frame + 1) <= MOST_PATHS) {
      for (const token of tokens) {
        for (let k = 0; k <= frame; k++) paths.push(place(k, token.i));
        paths.push(null);
      }
    }
    if (chosen) for (let k = 0; k <= frame; k++) way.push(place(k, chosen.i));
    const near = chosen ? chosen.near.map(([id]) => id) : [];
    const spokes = chosen ? near.flatMap((id) => [place(frame, chosen.i), known(id), null]) : [];
    const lit = near.map(known);
    const numbered = tokens.length <= MOST_NUMBERED;
    return {
      [PATHS]: { points: paths },
      [WORDS]: { points: ids.map(known), text: ids.map((id) => plain(words[id][0])) },
      [SPOKES]: { points: spokes },
      [WAY]: { points: way, symbol: way.map((_, k) => (k ? 'circle' : 'x')) },
      [LIT]: {
        points: lit, text: near.map((id) => plain(words[id][0])),
        textposition: dims === 2 ? labelPlaces(lit, near.map((id) => words[id][0])) : 'top center',
      },
      [FOUND]: { points: found.map((w) => w.xyz), text: found.map((w) => plain(w.text)), textposition: 'top center' },
      [TOKENS]: {
        points: ordered().map((t) => place(frame, t.i)),
        text: ordered().map((t) => (numbered || t.i === picked ? String(t.i + 1) : '')),
        hovertext: ordered().map(hover),
        symbol: ordered().map((t) => (t.i !== picked ? 'circle' : dims === 3 ? 'square' : 'diamond') + (isWeak(t) && dims === 3 ? '-open' : '')),
        fill: ordered().map((t) => shade(div, isWeak(t) && dims === 2 ? '--sp-paper' : '--sp-accent')),
        size: ordered().map((t) => (t.i === picked ? 28 : numbered ? 19 : 9) * (dims === 3 ? 0.6 : 1)),
        ink: ordered().map((t) => shade(div, isWeak(t) ? '--sp-accent' : '--sp-on-accent')),
        clear: ordered().map((t) => (picked === null || t.i === picked ? 1 : 0.4)),
      },
    };
  }

  function hover(token) {
    const [first] = token.near;
    const word = first ? plain(reading.words[first[0]][0]) + ' ' + twoDigits(first[1]) : '';
    const z = token.z === null ? '' : '<br>z ' + token.z.toFixed(1) + (isWeak(token) ? ', below 3' : '');
    return '<b>virtual token ' + (token.i + 1) + '</b><br>' + word + z + '<br>'
      + asPercent(token.share[dims === 3 ? 1 : 0]) + ' of it lies in this picture';
  }

  // Which side of its point each label stands on, so that few cover each other.
  function labelPlaces(points, texts) {
    const axes = div._fullLayout;
    if (!points.length || !axes || !axes.xaxis || !axes.xaxis._length) return 'top center';
    const { xaxis, yaxis } = axes;
    const sides = { 'top center': [0, -14], 'bottom center': [0, 14], 'middle right': [1, 0], 'middle left': [-1, 0],
      'top right': [1, -12], 'top left': [-1, -12], 'bottom right': [1, 12], 'bottom left': [-1, 12] };
    const taken = [];
    const at = (p) => [xaxis.l2p(p[0]), yaxis.l2p(p[1])];
    for (const p of reading.tokens.map((t) => at(place(frame, t.i)))) taken.push([p[0] - 9, p[1] - 9, p[0] + 9, p[1] + 9]);
    return points.map((point, n) => {
      const [x, y] = at(point);
      const wide = 7 * Math.min(24, texts[n].length) + 4;
      let best = null;
      for (const [side, [dx, dy]] of Object.entries(sides)) {
        const cx = x + dx * (wide / 2 + 8);
        const box = [cx - wide / 2, y + dy - 8, cx + wide / 2, y + dy + 8];
        const off = Math.max(0, -box[0]) + Math.max(0, box[2] - xaxis._length);
        const cover = taken.reduce((sum, b) => sum
          + Math.max(0, Math.min(box[2], b[2]) - Math.max(box[0], b[0]))
          * Math.max(0, Math.min(box[3], b[3]) - Math.max(box[1], b[1])), 50 * off);
        if (!best || cover < best.cover) best = { cover, side, box };
      }
      taken.push(best.box);
      return best.side;
    });
  }

  function traces() {
    const part = parts();
    const accent = shade(div, '--sp-accent'), near = shade(div, '--sp-near'), ink = shade(div, '--sp-ink');
    const type = dims === 3 ? 'scatter3d' : 'scatter';
    const line = { mode: 'lines', hoverinfo: 'skip' };
    const named = dims === 3 ? { hovertemplate: '%{text}<extra></extra>' } : { hoverinfo: 'skip' };
    const family = getComputedStyle(div).fontFamily;
    const font = { family, size: 12, color: ink, ...(dims === 2 ? { shadow: halo() } : {}) };
    const looks = {
      [DUST]: { mode: 'markers', name: 'vocabulary', hovertemplate: '%{text}<extra></extra>',
        marker: { size: 1.6, color: shade(div, '--sp-dust'), opacity: 0.45, line: { width: 0 } } },
      [PATHS]: { ...line, name: 'ways', line: { color: accent, width: 1 }, opacity: 0.28 },
      [WORDS]: { mode: 'markers', name: 'neighbours', ...named, opacity: 0.5,
        marker: { symbol: 'square', size: dims === 3 ? 3 : 4, color: near } },
      [SPOKES]: { ...line, name: 'spokes', line: { color: near, width: 1, dash: 'dot' }, opacity: 0.7 },
      [WAY]: { mode: 'lines+markers', name: 'way', hoverinfo: 'skip', line: { color: accent, width: 2.5 },
        marker: { color: accent, size: dims === 3 ? 3 : 5 } },
      [LIT]: { mode: 'markers+text', name: 'lit', ...named, textfont: { ...font, size: 13 },
        cliponaxis: false, marker: { symbol: 'square', size: dims === 3 ? 5 : 9, color: near, line: { color: shade(div, '--sp-paper'), width: 1 } } },
      [FOUND]: { mode: 'markers+text', name: 'found', hovertemplate: '%{text}<extra></extra>', textfont: { ...font, size: 14, color: shade(div, '--sp-found') },
        cliponaxis: false, marker: { symbol: dims === 3 ? 'cross' : 'star', size: dims === 3 ? 6 : 15, color: shade(div, '--sp-found'), line: { color: shade(div, '--sp-paper'), width: 1 } } },
      [TOKENS]: { mode: 'markers+text', name: 'prompt', hovertemplate: '%{hovertext}<extra></extra>', textposition: 'middle center',
        marker: { color: accent, line: { color: dims === 3 ? accent : shade(div, '--sp-paper'), width: 1.5 } }, textfont: { family, size: 11 } },
    };
    const all = { [DUST]: deepDust(), ...part };
    return Object.keys(looks).map((n) => {
      const { points, symbol, size, clear, fill, ink: inks, ...rest } = all[n];
      const [x, y, z] = column(points);
      const trace = { type, showlegend: false, connectgaps: false, ...looks[n], ...rest, x, y };
      if (z) { trace.z = z; delete trace.cliponaxis; if (trace.line) delete trace.line.dash; }
      if (symbol) trace.marker = { ...trace.marker, symbol };
      if (fill) trace.marker = { ...trace.marker, color: fill };
      if (size) trace.marker = { ...trace.marker, size, opacity: dims === 3 ? 1 : clear, line: { ...trace.marker.line, color: edges(), width: 1.5 } };
      if (inks) trace.textfont = { ...trace.textfont, color: dims === 3 ? ink : inks };
      return trace;
    });
  }

  // Keeps labels readable on the dust.
  const halo = () => ['1px 0', '-1px 0', '0 1px', '0 -1px'].map((at) => at + ' 2px ' + shade(div, '--sp-paper')).join(', ');

  // A hollow marker is drawn by its edge alone: it needs the accent there, a filled one the paper.
  const edges = () => ordered().map((t) => shade(div, isWeak(t) || dims === 3 ? '--sp-accent' : '--sp-paper'));

  // In 2-D the canvas names the words, so that a token lying on its word can still be hovered and chosen.
  function showDust() {
    const words = dims === 3 ? [] : Object.values(reading.words).map(([text, ...xyz]) => ({ text, xyz }));
    dust.show(cloud, only || dims === 3, words);
  }

  // ------------------------------------------------------------- the layout

  const reach = (axis) => {
    const values = [];
    for (const points of reading.frames.xyz) {
      for (let n = axis; n < points.length; n += reading.frames.dims) values.push(points[n]);
    }
    return span(values);
  };

  function layout() {
    const grid = shade(div, '--sp-line');
    const title = (n) => 'PC ' + (n + 1) + ' · ' + asPercent(reading.explained[n], 1);
    const axis = (n) => ({ title: { text: title(n), font: { size: 12 }, standoff: 6 }, showticklabels: false, showgrid: false,
      zeroline: true, zerolinecolor: grid, zerolinewidth: 1, ticks: '' });
    const shared = { margin: { l: 26, r: 6, t: 6, b: 26 }, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
      font: { family: getComputedStyle(div).fontFamily, color: shade(div, '--sp-quiet') }, hovermode: 'closest', showlegend: false, uirevision: 'map',
      hoverlabel: { bgcolor: shade(div, '--sp-paper'), bordercolor: grid, font: { color: shade(div, '--sp-ink'), size: 13 }, align: 'left' } };
    if (dims === 3) {
      const deep = (n) => ({ ...axis(n), showspikes: false, showbackground: false, title: { text: title(n), font: { size: 11 } } });
      return { ...shared, margin: { l: 0, r: 0, t: 0, b: 0 }, scene: { xaxis: deep(0), yaxis: deep(1), zaxis: deep(2), aspectmode: 'cube' } };
    }
    const [x, y] = box('all');
    const drag = window.matchMedia('(pointer: coarse)').matches ? false : 'pan';
    return { ...shared, dragmode: drag, xaxis: { ...axis(0), range: x }, yaxis: { ...axis(1), range: y } };
  }

  function box(what) {
    const words = [span(cloud.xyz[0]), span(cloud.xyz[1])];
    return what === 'words' ? words : [join(words[0], reach(0)), join(words[1], reach(1))];
  }

  // ------------------------------------------------------------- drawing

  async function build() {
    const Plotly = await withPlotly();
    if (!cloud || !reading || !reading.tokens.length) return;
    const config = { displayModeBar: false, responsive: true, scrollZoom: !window.matchMedia('(pointer: coarse)').matches, doubleClick: false };
    await Plotly.newPlot(div, traces(), layout(), config);
    if (!built) { listen(); dust.follow(); }
    built = true;
    showDust();
    if (dims === 2) await refresh(); // now the axes have a size: place the labels
  }

  function listen() {
    div.on('plotly_click', (event) => {
      const point = event.points[0];
      if (point.curveNumber === TOKENS) onPick(ordered()[point.pointNumber].i);
      else if (point.curveNumber === DUST) onWord(cloud.text[point.pointNumber], cloud.xyz.map((axis) => axis[point.pointNumber]));
    });
    div.on('plotly_relayout', (change) => {
      if (dims === 2 && Object.keys(change).some((key) => key.includes('range'))) {
        clearTimeout(labelTimer);
        labelTimer = setTimeout(() => soon([LIT]), 120);
      }
    });
  }

  async function refresh(which = MOVING) {
    if (!built || !reading) return;
    const Plotly = await withPlotly();
    const part = parts();
    const columns = which.map((n) => column(part[n].points));
    // One list entry a trace in the order of `which`; undefined leaves a trace's setting alone.
    const alone = (n, value) => which.map((m) => (m === n ? value : undefined));
    const change = {
      x: columns.map((c) => c[0]), y: columns.map((c) => c[1]), ...(dims === 3 ? { z: columns.map((c) => c[2]) } : {}),
      text: which.map((n) => part[n].text), textposition: alone(LIT, part[LIT].textposition),
      hovertext: alone(TOKENS, part[TOKENS].hovertext),
      'marker.symbol': which.map((n) => (n === TOKENS || n === WAY ? part[n].symbol : undefined)),
      'marker.color': which.map((n) => (n === TOKENS ? part[n].fill : undefined)), 'marker.size': alone(TOKENS, part[TOKENS].size), 'marker.opacity': alone(TOKENS, dims === 3 ? 1 : part[TOKENS].clear),
      'marker.line.color': alone(TOKENS, edges()),
      'textfont.color': alone(TOKENS, dims === 3 ? shade(div, '--sp-ink') : part[TOKENS].ink),
    };
    await Plotly.restyle(div, change, which);
  }

  // Only the last of several asks in a row is drawn.
  let wanted = false, due = new Set();
  async function soon(which = MOVING) {
    for (const n of which) due.add(n);
    if (wanted) return;
    wanted = true;
    await building;
    await new Promise((done) => requestAnimationFrame(done));
    wanted = false;
    const now = [...due];
    due = new Set();
    building = refresh(now);
    await building;
  }
  const rebuild = () => (building = Promise.resolve(building).then(build));

  onTheme(div, () => built && rebuild());

  return {
    async show(newCloud, newReading, newFrame) {
      const same = built && cloud && cloud.key === newCloud.key && reading && reading.about.run === newReading.about.run;
      cloud = newCloud; reading = newReading; frame = newFrame;
      if (picked !== null && picked >= reading.tokens.length) picked = null;
      if (!same) return rebuild();
      showDust();
      return soon();
    },
    frame(k) { frame = k; return soon(TIMED); },
    pick(i) { picked = i; return soon(); },
    find(words) { found = words; return soon([FOUND]); },
    dims(d) { dims = d; return rebuild(); },
    async only(value) {
      only = value;
      showDust();
      return dims === 3 ? rebuild() : null;
    },
    async fit(what) {
      if (dims === 3) return rebuild();
      const [x, y] = box(what);
      return (await withPlotly()).relayout(div, { 'xaxis.range': x, 'yaxis.range': y });
    },
    async zoom(factor) {
      if (dims === 3) {
        const { eye } = div._fullLayout.scene.camera;
        return (await withPlotly()).relayout(div, { 'scene.camera.eye': { x: eye.x * factor, y: eye.y * factor, z: eye.z * factor } });
      }
      const { xaxis, yaxis } = div._fullLayout;
      const scaled = ([a, b]) => [(a + b) / 2 - ((b - a) / 2) * factor, (a + b) / 2 + ((b - a) / 2) * factor];
      return (await withPlotly()).relayout(div, { 'xaxis.range': scaled(xaxis.range), 'yaxis.range': scaled(yaxis.range) });
    },
    async picture(name) {
      const Plotly = await withPlotly();
      const { _size: size, width, height } = div._fullLayout;
      const below = { source: dust.picture(), layer: 'below', xref: 'paper', yref: 'paper', sizing: 'stretch', xanchor: 'left', yanchor: 'top',
        x: -size.l / size.w, y: 1 + size.t / size.h, sizex: width / size.w, sizey: height / size.h };
      const layout = { ...div.layout, paper_bgcolor: shade(div, '--sp-paper'), images: dims === 2 ? [below] : [] };
      return Plotly.downloadImage({ data: div.data, layout }, { format: 'png', width, height, scale: 3, filename: name });
    },
  };
}
