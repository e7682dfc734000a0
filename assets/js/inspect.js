// Joins table, map, slider and search. `props.value` says which reading is wanted; the server is asked for it,
// and for news every few seconds while the run trains and the tab is seen.

const POLL = 3000;
const at = (selector) => element.querySelector(selector);
const view = { reading: null, asked: '', picked: null, frame: 0, follows: true, playing: null, round: 0 };
const slider = at('.sp-in-time input'), play = at('.sp-in-play'), stepText = at('.sp-in-time output');
const table = makeTable(at('.sp-in-tokens'), (i, keep) => pick(i, { from: 'table', keep }));
const map = makeMap(at('.sp-in-stage'), (i) => pick(i, { from: 'map' }), (text, xyz) => showFound([{ text, xyz }]));
const readings = makeReadings(element, (i, keep) => pick(i, { from: 'readings', keep }), (deltas) => table.deltas(deltas));

function say(title, text) {
  const note = at('.sp-in-note');
  note.replaceChildren(...(title ? [make('b', '', title)] : []), ...(text ? [make('p', '', text)] : []));
  note.hidden = !title && !text;
}

function pick(index, { from, keep }) {
  view.picked = view.picked === index && !keep ? null : index;
  table.pick(view.picked, { scroll: from === 'map' });
  map.pick(view.picked);
  readings.pick(view.picked);
}

function head({ about }) {
  at('.sp-in-title h2').textContent = about.name;
  const pill = at('.sp-in-pill');
  pill.textContent = about.status;
  pill.dataset.status = about.status;
  at('.sp-in-line').textContent = about.line;
  at('.sp-in-facts').replaceChildren(...about.facts.map(([name, value]) => {
    const pair = make('div');
    pair.append(make('dt', '', name), make('dd', '', value));
    return pair;
  }));
  at('.sp-in-measure').textContent = about.top + ' nearest words by ' + about.measure + ', prompt of step ' + about.step.toLocaleString('en');
}

function caption(cloud, reading) {
  const [a, b, c] = reading.explained;
  const drawn = cloud.drawn === cloud.listed
    ? 'All ' + cloud.listed.toLocaleString('en') + ' words of the vocabulary that can be neighbours are drawn.'
    : cloud.drawn.toLocaleString('en') + ' of ' + cloud.listed.toLocaleString('en') + ' words drawn, and all neighbours; the search knows every word.';
  const out = Object.entries(cloud.left_out).filter(([, count]) => count).map(([why, count]) => count.toLocaleString('en') + ' ' + why).join(', ');
  const flat = at('[data-map=dims]').getAttribute('aria-pressed') !== 'true';
  at('.sp-in-caption').textContent = (flat
    ? 'The picture holds ' + asPercent(a + b, 1) + ' of the vocabulary’s variance. '
    : 'The space holds ' + asPercent(a + b + c, 1) + ' of the vocabulary’s variance. ')
    + drawn + (out ? ' Left out: ' + out + '.' : '') + ' Axes are fixed by the vocabulary, each on its own scale; training never moves them.';
}

function time() {
  const { steps, now } = view.reading.frames;
  slider.max = steps.length - 1;
  slider.value = view.frame;
  play.disabled = slider.disabled = steps.length < 2;
  const text = 'step ' + steps[view.frame].toLocaleString('en') + ' of ' + steps[steps.length - 1].toLocaleString('en');
  stepText.textContent = text + (view.frame === now ? ' · the table’s prompt' : '');
  slider.setAttribute('aria-valuetext', stepText.textContent);
}

async function load() {
  const value = props.value || '';
  const asked = value ? JSON.parse(value) : { run: '' };
  const fresh = value !== view.asked;
  const round = ++view.round;
  view.asked = value;
  const late = fresh && setTimeout(() => say('Reading…', 'The first look at a base model opens its vocabulary; that takes a moment.'), 400);
  try {
    const reading = await ask(server.reading, { ...asked, seen: fresh || !view.reading ? '' : view.reading.about.stamp });
    clearTimeout(late);
    if (round !== view.round) return;
    if (!reading) say('', '');
    else if (reading.tokens) await show(reading);
    else rest(reading);
  } catch (error) {
    clearTimeout(late);
    if (round === view.round) say('No answer', 'The server did not answer. It is asked again when you change a switch or reload the page.');
    console.error(error);
  }
}

// No reading: say why, and what to do.
function rest(answer) {
  view.reading = null;
  view.waits = Boolean(answer.live);
  stop();
  at('.sp-in-body').hidden = true;
  if (answer.empty) say(answer.empty, 'Press Train on the Train tab: it is filled in already, and one click is enough. The words of the prompt appear here while it trains.');
  else if (answer.error) say('This run cannot be read', answer.error);
  else if (answer.none) say(answer.none, answer.why + ' ' + answer.line);
  else say('This run has no prompt yet', answer.waiting + ' Its words appear here by themselves after the first steps.');
}

async function show(reading) {
  const cloud = await cloudOf(server.cloud, reading.key);
  if (!cloud || cloud.error) return rest(cloud || { error: 'The vocabulary could not be drawn.' });
  const other = !view.reading || view.reading.about.run !== reading.about.run;
  const shownStep = view.reading && view.reading.frames.steps[view.frame];
  view.reading = reading;
  view.waits = reading.about.live;
  if (other) { view.picked = null; view.follows = true; showFound([]); at('.sp-in-search input').value = ''; }
  const kept = reading.frames.steps.indexOf(shownStep);
  view.frame = view.follows || kept < 0 ? reading.frames.now : kept;
  at('.sp-in-body').hidden = false;
  say('', '');
  head(reading);
  table.show(reading);
  if (other) { table.deltas(null); readings.pick(null); }
  readings.show(reading.about.run);
  if (view.picked !== null && view.picked >= reading.tokens.length) view.picked = null;
  table.pick(view.picked, { scroll: false });
  time();
  caption(cloud, reading);
  view.cloud = cloud;
  await map.show(cloud, reading, view.frame);
}

// ---------------------------------------------------------------- the slider

function go(frame) {
  view.frame = frame;
  view.follows = frame === view.reading.frames.now;
  time();
  return map.frame(frame);
}

function stop() {
  clearTimeout(view.playing);
  view.playing = null;
  play.textContent = '▶';
  play.setAttribute('aria-label', 'Play training');
}

function start() {
  const last = view.reading.frames.steps.length - 1;
  if (view.frame >= last) go(0);
  play.textContent = '❚❚';
  play.setAttribute('aria-label', 'Pause');
  const pace = Math.max(60, Math.min(220, 5000 / (last + 1)));
  const next = async () => {
    if (!view.reading || !element.isConnected || view.frame >= view.reading.frames.steps.length - 1) return stop();
    const began = performance.now();
    await go(view.frame + 1);
    if (view.playing) view.playing = setTimeout(next, Math.max(0, pace - (performance.now() - began)));
  };
  view.playing = setTimeout(next, pace);
}

play.addEventListener('click', () => (view.playing ? stop() : start()));
slider.addEventListener('input', () => { stop(); go(Number(slider.value)); });

// ---------------------------------------------------------------- the search

function showFound(words) {
  const box = at('.sp-in-matches');
  box.replaceChildren(...words.map((word, n) => {
    const button = make('button', '', word.text);
    button.type = 'button';
    button.setAttribute('aria-pressed', String(n === 0));
    button.addEventListener('click', () => {
      for (const other of box.children) other.setAttribute('aria-pressed', String(other === button));
      map.find([word]);
    });
    return button;
  }));
  map.find(words.slice(0, 1));
}

let typing = null;
at('.sp-in-search input').addEventListener('input', (event) => {
  clearTimeout(typing);
  typing = setTimeout(async () => {
    const query = event.target.value;
    const words = query.trim() && view.reading ? await ask(server.find, { key: view.reading.key, query }) : [];
    if (query !== event.target.value) return;
    showFound(Array.isArray(words) ? words : []);
    if (query.trim() && !(words && words.length)) at('.sp-in-matches').append(make('span', 'sp-in-sub', 'No vocabulary entry holds this text; it may be cut into several.'));
  }, 200);
});

// ---------------------------------------------------------------- buttons

const flip = (button) => {
  const on = button.getAttribute('aria-pressed') !== 'true';
  button.setAttribute('aria-pressed', String(on));
  return on;
};
const actions = {
  dims: (button) => { const on = flip(button); caption(view.cloud, view.reading); return map.dims(on ? 3 : 2); },
  only: (button) => map.only(flip(button)),
  in: () => map.zoom(0.7),
  out: () => map.zoom(1 / 0.7),
  all: () => map.fit('all'),
  words: () => map.fit('words'),
  png: () => map.picture(view.reading.about.run + '-map'),
};
for (const button of element.querySelectorAll('[data-map]')) {
  button.addEventListener('click', () => view.reading && actions[button.dataset.map](button));
}

for (const button of element.querySelectorAll('[data-save]')) {
  button.addEventListener('click', async () => {
    const file = await ask(server[button.dataset.save], { ...JSON.parse(view.asked), seen: '' });
    if (!file || file.error) return say('The file could not be written', file && file.error);
    const link = make('a');
    link.href = URL.createObjectURL(new Blob([file.text], { type: 'text/plain' }));
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

at('.sp-in-report').addEventListener('click', () => view.reading && readings.report());

watch('value', () => { if ((props.value || '') !== view.asked) load(); });
const beat = setInterval(() => {
  if (!element.isConnected) return clearInterval(beat);
  if (isSeen(element) && (view.waits || (props.value || '') !== view.asked)) load();
}, POLL);
load();
