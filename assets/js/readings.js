// What needs the model: the trust header and the cards below table and map. The server makes the readings in the
// background; while any is under way it is asked for news, and only what has changed is sent and drawn.

const NEWS = 1200;
const READING = { ladder: 'What survives as words', signature: 'What it makes the model say', tokens: 'Each virtual token', attributions: 'Integrated gradients',
  attention: 'Attention', says_of_itself: 'What it says of itself', pair: 'Two prompts', twin: 'The twin' };
const RUNG = { soft: 'The prompt itself', pez: 'Words found by search (PEZ)', nearest: 'Its nearest words', start: 'The start, before training', start_words: 'The start’s nearest words',
  random: 'Random words', hand_written: 'Written by hand', no_prompt: 'No prompt', prompt: 'This prompt', twin: 'Its wayward twin', words: 'Those words alone, as text' };
const BAND = { readable: 'Can be read', partial: 'Read in part', do_not_read: 'Do not read', not_measurable: 'Not measurable' };
const TERM = { retention: 'Kept by the words', above_null: 'Above chance', stability: 'Seeds agree', echo: 'Echo of the start', change: 'Kept of what training added' };
const LEFT_OUT = { mask: 'Hidden from attention: added loss', deletion: 'Taken out: added loss', mean: 'Replaced by the mean word: added loss' };
const isUnderWay = (item) => Boolean(item) && (item.stage === 'waiting' || item.stage === 'working');
const signed = (v) => (v < 0 ? '−' : '') + Math.abs(v).toFixed(2);

function makeReadings(root, onPick, onTokens) {
  const header = root.querySelector('.sp-rd-trust');
  const cards = new Map([...root.querySelectorAll('[data-card]')].map((card) => [card.dataset.card, card]));
  const body = (name) => cards.get(name).querySelector('.sp-rd-body');
  const other = root.querySelector('.sp-rd-other'), text = root.querySelector('.sp-rd-text');
  let run = '', state = null, picked = null, busy = false, again = false, timer = null, shownHeader = '';
  const docs = new Map();      // name → {stamp, reading}
  const drawn = new Map();     // card → what it shows

  // ------------------------------------------------------------ the server

  async function load() {
    if (!run) return;
    if (busy) { again = true; return; }
    busy = true;
    clearTimeout(timer);
    const mine = run;
    try {
      const seen = Object.fromEntries([...docs].map(([name, { stamp }]) => [name, stamp]));
      const answer = await ask(server.readings, { run: mine, other: other.value, seen });
      if (mine === run && answer) take(answer);
    } catch (error) {
      console.error(error);
      complain('What the prompt does could not be shown. Reload the page.');
    } finally {
      busy = false;
      const waits = state && Object.values(state.items || {}).some(isUnderWay);
      if (again) { again = false; load(); }
      else if (waits && element.isConnected) timer = setTimeout(load, NEWS);
    }
  }

  function take(answer) {
    if (answer.error) { state = { reason: answer.error, items: {}, others: [], order: [] }; return paint(); }
    state = answer;
    for (const [name, item] of Object.entries(answer.items)) {
      if (item.stage !== 'done') docs.delete(name);
      else if (item.reading) docs.set(name, { stamp: item.stamp, reading: item.reading });
    }
    fillOthers(answer.others);
    paint();
    answerPair();
  }

  async function start(names) {
    const answer = await ask(server.study, { run, names });
    if (answer && answer.error) return complain(answer.error);
    await load();
  }

  function complain(sentence, card) {
    const place = card ? body(card) : header;
    place.querySelector('.sp-rd-wrong')?.remove();
    const line = make('p', 'sp-rd-wrong', sentence);
    line.setAttribute('role', 'alert');
    place.append(line);
  }

  const stop = () => ask(server.halt, { run }).then(load);
  const doc = (name) => docs.get(name)?.reading;
  const item = (name) => state?.items?.[name];
  const pairName = () => 'pair:' + other.value;
  const twinName = () => Object.keys(state?.items || {}).filter((name) => name.startsWith('twin:')).sort((a, b) => isUnderWay(item(b)) - isUnderWay(item(a)) || Boolean(doc(b)) - Boolean(doc(a)))[0];

  function fillOthers(found) {
    const chosen = other.value;
    if (other.dataset.known === JSON.stringify(found)) return;
    other.dataset.known = JSON.stringify(found);
    other.replaceChildren(...found.map(([id, label]) => Object.assign(make('option', '', label), { value: id })));
    if (found.some(([id]) => id === chosen)) other.value = chosen;
  }

  // ------------------------------------------------------------ the header

  function fact(term, value, note, limits) {
    const pair = make('div', limits ? 'is-limit' : '');
    pair.append(make('dt', '', TERM[term]), make('dd', '', value));
    if (note) pair.append(make('small', '', note));
    if (limits) pair.append(make('small', 'sp-in-tag', 'limits the score'));
    return pair;
  }

  function button(label, action, kind = '') {
    const node = make('button', 'sp-rd-go ' + kind, label);
    node.type = 'button';
    node.addEventListener('click', async () => { node.disabled = true; try { await action(); } finally { node.disabled = false; } });
    return node;
  }

  function progress(names) {
    const box = make('div', 'sp-rd-progress');
    const now = names.find((name) => item(name).stage === 'working') || names[0];
    const share = item(now).share;
    const line = make('p', '', READING[now.split(':')[0]] + (item(now).stage === 'waiting' ? ': waiting' : ' · ' + asPercent(share)));
    const meter = Object.assign(make('progress'), { max: 1, value: share });
    meter.setAttribute('aria-label', READING[now.split(':')[0]]);
    box.append(line, meter);
    if (names.length > 1) line.append(make('span', '', ', then ' + names.filter((name) => name !== now).map((name) => READING[name.split(':')[0]].toLowerCase()).join(', ')));
    box.append(button('Cancel', stop, 'is-quiet'));
    return box;
  }

  function callToMeasure(missing) {
    const box = make('div', 'sp-rd-call');
    const { seconds, passes, rows } = state.cost;
    const some = missing.length < state.order.length;
    const long = !seconds ? '' : seconds < 90 ? 'About ' + seconds + ' seconds on this machine' : 'About ' + Math.round(seconds / 60) + ' minutes on this machine';
    box.append(button(some ? 'Measure the rest' : 'Measure what it does', () => start(missing)));
    const what = passes.toLocaleString('en') + ' passes through the model on ' + rows + ' test rows and some training rows';
    box.append(make('p', '', some ? 'Still to measure: ' + missing.map((name) => READING[name].toLowerCase()).join(', ') + '.'
      : (long ? long + ': ' + what : what[0].toUpperCase() + what.slice(1)) + '. It runs in the background and is kept with the run.'));
    return box;
  }

  function trustHead() {
    const found = doc('ladder');
    const parts = [];
    if (state.reason) {
      parts.push(make('h3', '', 'How far to trust these words'), make('p', 'sp-rd-sentence', state.reason));
      return parts;
    }
    const under = state.order.filter((name) => isUnderWay(item(name)));
    const missing = state.order.filter((name) => item(name).stage === 'none' || item(name).stage === 'cancelled');
    if (found) {
      const { trust, retention } = found;
      const score = make('div', 'sp-rd-score');
      score.dataset.band = trust.band;
      const number = make('p', 'sp-rd-number', trust.score === null ? '–' : String(Math.round(trust.score)));
      if (trust.score !== null) number.append(make('span', '', ' / 100'));
      score.append(make('h3', '', 'Trust in these words'), number, make('p', 'sp-rd-band', BAND[trust.band]));
      const scale = make('div', 'sp-rd-scale');
      scale.style.setProperty('--low', state.bands[0] + '%');
      scale.style.setProperty('--high', state.bands[1] + '%');
      if (trust.score !== null) { const dot = make('i'); dot.style.left = trust.score + '%'; scale.append(dot); }
      score.append(scale);
      const facts = make('dl', 'sp-rd-facts');
      const limit = (name) => trust.score !== null && trust.limiting === name;
      const between = retention.low === null ? '' : '95 %: ' + asPercent(retention.low) + ' to ' + asPercent(retention.high);
      facts.append(
        fact('retention', asPercent(retention.value), between || 'of the gain over random words', limit('retention')),
        fact('above_null', asPercent(trust.above_null), 'of the words, z above 3', limit('above_null')),
        fact('stability', trust.stability === null ? 'not known' : asPercent(Math.max(0, trust.stability)), found.seeds < 2 ? 'train a second seed to know' : found.seeds + ' seeds compared', limit('stability')),
        fact('echo', asPercent(trust.echo), trust.echo === null ? 'the start was not kept' : 'of the words are still the start’s'),
        fact('change', asPercent(trust.retention_of_change), trust.echo === null ? 'the start was not kept' : trust.retention_of_change === null ? 'training changed too little to say' : 'by the nearest words'),
      );
      const right = make('div', 'sp-rd-why');
      right.append(make('p', 'sp-rd-sentence', trust.sentence), facts);
      const row = make('div', 'sp-rd-verdict');
      row.append(score, right);
      parts.push(row);
    } else {
      parts.push(make('h3', '', 'How far to trust these words'));
      parts.push(make('p', 'sp-rd-sentence', 'Not measured yet. A prompt can be trained to spell any words and work the same, so what you read below needs a test: put the words in the prompt’s place and see what is left of its effect.'));
    }
    if (under.length) parts.push(progress(under));
    else if (missing.length) parts.push(callToMeasure(missing));
    if (item('ladder').stage === 'failed') parts.push(make('p', 'sp-rd-wrong', item('ladder').reason), button('Try again', () => start(['ladder']), 'is-quiet'));
    return parts;
  }

  // ------------------------------------------------------------ the cards

  const figure = (place, label, draw) => {
    const host = make('div', 'sp-rd-fig');
    place.append(host);
    picture(host, label, draw);
    return host;
  };
  const note = (place, sentence, kind = '') => place.append(make('p', 'sp-rd-note ' + kind, sentence));

  const show = {
    ladder(place, { ladder: found }) {
      const colour = { soft: 'accent', nearest: 'near' };
      figure(place, 'Accuracy of what stands in the prompt’s place', bars(found.rungs.map((rung) => ({
        label: RUNG[rung.kind] || rung.kind, value: rung.accuracy, low: rung.accuracy_low, high: rung.accuracy_high,
        note: 'loss ' + rung.loss.toFixed(2), text: rung.text, colour: colour[rung.kind],
      }))));
      note(place, 'Accuracy on ' + found.rows + ' test rows with 95 % intervals; random words: mean and spread of ' + found.draws + ' draws.');
    },
    signature(place, { signature: found }) {
      const rows = [...found.raised, ...found.lowered].map((word) => [word.token, word.score]);
      if (rows.length) figure(place, 'Words made likelier and less likely', shifts(rows));
      note(place, 'Change of log p where the answer begins, with the prompt against without, mean over rows.');
      const said = make('div', 'sp-rd-said');
      said.append(make('b', '', 'Left to itself after the prompt alone, the model writes'), make('q', '', found.continued || '(nothing)'));
      place.append(said);
    },
    tokens(place, { tokens: found, attributions, attention }) {
      const count = found ? Math.max(...found.ablations.map((a) => a.index)) + 1 : (attributions?.attribution || attention.by_token).length;
      const panels = !found ? [] : Object.keys(LEFT_OUT).map((way) => {
        const of = found.ablations.filter((a) => a.way === way).sort((a, b) => a.index - b.index);
        return { title: LEFT_OUT[way], note: 'nats a row', group: 'loss', values: of.map((a) => a.delta), low: of.map((a) => a.low), high: of.map((a) => a.high) };
      });
      if (attributions?.is_complete) panels.push({ title: 'Integrated gradients', note: 'add up within ' + asPercent(attributions.error, 1), group: 'gradient', values: attributions.attribution });
      if (attention) panels.push({ title: 'Share of attention', note: 'mean of heads', group: 'attention', values: attention.by_token });
      if (panels.length) place.columns = figure(place, 'What each virtual token does', columns(panels, count, { picked: () => picked, onPick }));
      if (attributions && !attributions.is_complete) note(place, 'Integrated gradients miss their sum by ' + asPercent(attributions.error) + ' after ' + attributions.steps + ' steps, so they are not shown as a ranking.', 'is-warning');
      if (!attributions && item('attributions')?.reason) note(place, 'Integrated gradients: ' + item('attributions').reason);
      note(place, found ? 'Added loss on ' + found.rows + ' test rows with 95 % intervals. Choose a column to select its token in table and map.'
        : 'Leaving tokens out: ' + (item('tokens').reason || 'not measured.'));
    },
    cumulative(place, { tokens: found }) {
      const { cumulative, order } = found;
      figure(place, 'Accuracy and loss by the number of tokens kept', curves(cumulative.map((c) => c.kept), [
        { title: 'Accuracy', values: cumulative.map((c) => c.accuracy), format: (v) => asPercent(v), low: 0, high: 1 },
        { title: 'Loss', values: cumulative.map((c) => c.loss), format: twoDigits },
      ], { title: 'most needed tokens kept', tall: 80 }));
      figure(place, 'Accuracy as trained and over shuffles', strips([
        { label: 'In its own order', dots: [[order.accuracy]], colour: 'accent' },
        { label: order.shuffled.length + ' shuffles', dots: order.shuffled.map((v) => [v]) },
      ], [0, 1], { format: (v) => asPercent(v) }));
      const lost = order.loss_of_accuracy;
      note(place, 'A shuffle costs ' + asPercent(Math.max(0, lost), 1) + ' of accuracy on average: ' + (lost > 0.03 ? 'order matters.' : 'order hardly matters.'));
    },
    attention(place, { attention: found }) {
      const mine = picked !== null && found.mass && found.mass[0][0].length > picked;
      const grid = mine ? found.mass.map((heads) => heads.map((shares) => shares[picked])) : found.by_layer_and_head;
      figure(place, 'Attention by layer and head', heat(grid));
      note(place, mine ? 'Share of attention paid to virtual token ' + (picked + 1) + '.' : 'Share of attention paid to the whole prompt where the answer begins.' + (found.mass ? ' Choose a token to see its own.' : ''));
    },
    says_of_itself(place, { says_of_itself: found }) {
      const best = found.answers[0];
      note(place, found.says_something
        ? 'Its best answer recovers ' + asPercent(best.recovery) + ' of the effect, more than any control (' + asPercent(found.best_control) + ').'
        : 'No answer beats the controls (best ' + asPercent(best ? best.recovery : null) + ', best control ' + asPercent(found.best_control) + '), so none of them says anything about this prompt.', found.says_something ? 'is-good' : 'is-warning');
      const sweeps = [['This prompt', found.answers, 'accent'], ...Object.entries(found.controls).map(([name, answers]) => ['Control: ' + (name === 'start' ? 'the start' : name === 'shuffled' ? 'this prompt, shuffled' : name), answers])];
      figure(place, 'Recovery of every answer', strips(sweeps.map(([label, answers, colour]) => ({ label, colour, dots: answers.map((a) => [a.recovery, asPercent(a.recovery) + ': ' + a.text]) })), [-1, 1], { format: (v) => asPercent(v), rule: 0 }));
      note(place, 'Recovery: 100 % does all that the prompt does, 0 % nothing, below leads away (shown down to −100 %).');
      const table = make('table', 'sp-rd-answers'), head = make('tr');
      head.append(...['Of', 'Question', 'Answer', 'Recovery'].map((name) => make('th', '', name)));
      table.append(head);
      for (const [label, answers] of sweeps) {
        for (const answer of answers.slice(0, label === 'This prompt' ? 6 : 1)) {
          const row = make('tr');
          row.append(make('td', '', label), make('td', '', answer.frame.trim()), make('td', '', answer.text || '(nothing)'), make('td', '', asPercent(answer.recovery)));
          table.append(row);
        }
      }
      const wide = make('div', 'sp-rd-scroll');
      wide.append(table);
      place.append(wide);
    },
    pair(place, { pair: found }) {
      const facts = make('dl', 'sp-rd-facts');
      const add = (name, value, small) => { const box = make('div'); box.append(make('dt', '', name), make('dd', '', value), make('small', '', small)); facts.append(box); };
      add('Likeness', found.raw === null ? '–' : signed(found.raw), found.raw === null ? 'of unequal length' : 'mean cosine, same places');
      add('Likeness of change', found.of_change === null ? 'not known' : signed(found.of_change), found.of_change === null ? 'a start was not kept' : 'with both starts taken off');
      add('Shared words', String(found.shared.length), 'chance: ' + found.shared_by_chance.toFixed(1) + ', p ' + (found.chance < 0.001 ? '< 0.001' : '= ' + found.chance.toFixed(3)));
      place.append(facts);
      if (found.is_start_dominated) note(place, 'Most of the likeness comes from the shared start, not from what was learned.', 'is-warning');
      if (found.shared.length) { const chips = make('p', 'sp-rd-chips'); chips.append(...found.shared.slice(0, 40).map((word) => make('span', '', word))); place.append(chips); }
      const both = make('div', 'sp-rd-two');
      place.append(both);
      const left = make('div'), right = make('div');
      both.append(left, right);
      figure(left, 'Both prompts on one basis', sideBySide(found.places, found.matches, found.explained));
      note(left, 'Circles: this prompt. Squares: the other. Lines join matched tokens; darker is more alike.');
      if (found.line) {
        figure(right, 'Along the line between the prompts', curves(found.line.map((p) => p.share), [
          { title: 'Accuracy', values: found.line.map((p) => p.accuracy), format: (v) => asPercent(v), low: 0, high: 1 },
          { title: 'Loss', values: found.line.map((p) => p.loss), format: twoDigits },
        ], { title: 'along the line', ends: ['this prompt', 'the other'] }));
        note(right, 'Measured on ' + found.rows + ' test rows of this run.');
      } else note(right, found.line_reason);
      const matches = make('p', 'sp-rd-chips');
      matches.append(make('b', '', 'Matched tokens '), ...[...found.matches].sort((a, b) => b.cosine - a.cosine).slice(0, 24).map((m) => make('span', '', (m.first + 1) + ' ' + m.first_word + ' ↔ ' + (m.second + 1) + ' ' + m.second_word + ' ' + signed(m.cosine))));
      place.append(matches);
    },
    twin(place, { twin: found }) {
      const [prompt, twin] = found.rungs;
      const kept = twin.accuracy >= prompt.accuracy - 0.03;
      note(place, (found.spelled === 1 ? 'Every nearest word of the twin is now one of yours' : asPercent(found.spelled) + ' of the twin’s nearest words are yours') + ', and its accuracy is ' + asPercent(twin.accuracy, 1) + ', against ' + asPercent(prompt.accuracy, 1) + ' of this prompt. '
        + (found.spelled > 0.9 && kept ? 'The words changed; the effect did not. So never take nearest words for the meaning without a test.' : 'Here the words could not be changed without losing some of the effect.'), 'is-warning');
      for (const [title, words] of [['Before', found.before], ['Twin', found.words]]) {
        const chips = make('p', 'sp-rd-chips');
        chips.append(make('b', '', title + ' '), ...words.map((word) => make('span', '', word)));
        place.append(chips);
      }
      figure(place, 'Accuracy of prompt, twin and words', bars(found.rungs.map((rung) => ({
        label: RUNG[rung.kind], value: rung.accuracy, low: rung.accuracy_low, high: rung.accuracy_high, note: 'loss ' + rung.loss.toFixed(2), colour: { prompt: 'accent', twin: 'near' }[rung.kind],
      }))));
      note(place, found.rows + ' test rows, ' + found.steps + ' training steps.' + (found.is_cut ? ' The text was longer than the prompt and was cut.' : ''));
      place.append(button('Keep the twin as a run', keep, 'is-quiet'));
    },
  };

  // Which readings a card draws, and which of them it cannot do without.
  const needs = { ladder: ['ladder'], signature: ['signature'], tokens: ['tokens', 'attributions', 'attention'], cumulative: ['tokens'], attention: ['attention'], says_of_itself: ['says_of_itself'], pair: [pairName], twin: [twinName] };

  function fillCard(card) {
    const place = body(card);
    const names = needs[card].map((name) => (typeof name === 'function' ? name() : name));
    const [first] = names;
    const found = Object.fromEntries(names.map((name) => [String(name).split(':')[0], doc(name)]));
    const now = item(first) || { stage: 'none' };
    const mark = JSON.stringify([state.reason, run, first, now.stage, now.reason, isUnderWay(now) ? now.share : 0, names.map((name) => docs.get(name)?.stamp), card === 'attention' ? picked : 0]);
    if (drawn.get(card) === mark) return;
    drawn.set(card, mark);
    place.replaceChildren();
    const has = Boolean(doc(first)) || (card === 'tokens' && now.stage === 'failed' && names.some(doc));
    cards.get(card).querySelector('.sp-in-tools').hidden = !has;
    if (has) show[card](place, found);
    else if (state.reason) note(place, state.reason);
    else if (isUnderWay(now)) {
      if (first.includes(':')) place.append(progress([first]));
      else note(place, now.stage === 'waiting' ? 'Waiting for its turn.' : 'Measuring: ' + asPercent(now.share) + '.');
    } else if (now.stage === 'failed') note(place, now.reason, 'is-warning');
    else if (card === 'pair' && !state.others.length) note(place, 'There is no other run on this model yet. Train one, with another seed or start, to set it beside this one.');
    else if (card !== 'pair' && card !== 'twin') note(place, now.stage === 'cancelled' ? 'Cancelled. Press “Measure the rest” above to go on.' : 'Not measured yet. Press the measure button above.');
  }

  function paint() {
    const shown = JSON.stringify([run, state.reason, state.cost, state.order.map((name) => [item(name), docs.get(name)?.stamp])]);
    if (shown !== shownHeader) header.replaceChildren(...trustHead());
    shownHeader = shown;
    for (const card of cards.keys()) fillCard(card);
    root.querySelector('[data-do=pair]').disabled = Boolean(state.reason) || !other.value;
    root.querySelector('[data-do=twin]').disabled = Boolean(state.reason);
    onTokens(doc('tokens')?.ablations.filter((a) => a.way === 'deletion') || null);
  }

  async function keep() {
    const answer = await ask(server.keep, { run });
    if (answer.error) return complain(answer.error, 'twin');
    note(body('twin'), 'Kept as run ' + answer.run + '. Press “Refresh list” above to open it and see what it is trusted with.', 'is-good');
  }

  // ------------------------------------------------------------ files

  const TABLE = { ladder: 'CSV', signature: 'CSV', tokens: 'CSV', attributions: 'CSV gradients', cumulative: 'CSV', order: 'CSV order', attention: 'CSV', says_of_itself: 'CSV', pair: 'CSV', line: 'CSV line', twin: 'CSV' };
  for (const [name, card] of cards) {
    const bar = make('div', 'sp-in-bar'), tools = make('span', 'sp-in-tools');
    tools.hidden = true;
    const tool = (label, about, action) => {
      const node = make('button', '', '↓ ' + label);
      node.type = 'button';
      node.setAttribute('aria-label', 'Download ' + about);
      node.addEventListener('click', action);
      tools.append(node);
    };
    const title = card.querySelector('h4');
    for (const table of card.dataset.tables.split(' ')) tool(TABLE[table], title.textContent + ' as ' + TABLE[table], () => file(server.rows, { table, other: other.value }, name));
    const hosts = () => [...card.querySelectorAll('.sp-rd-fig')];
    tool('SVG', title.textContent + ' as SVG', () => saveSvg(run + '-' + name, hosts()));
    tool('PNG', title.textContent + ' as PNG', () => savePng(run + '-' + name, hosts()));
    title.replaceWith(bar);
    bar.append(title, tools);
  }

  async function file(source, more, card) {
    const found = await ask(source, { run, ...more });
    if (!found || found.error) return complain(found ? found.error : 'The server did not answer.', card);
    saveFile(found.name, new Blob([found.text], { type: found.name.endsWith('.html') ? 'text/html' : 'text/plain' }));
  }

  async function openPair() {
    const answer = await ask(server.study, { run, names: [pairName()] });
    if (answer && answer.error) return complain(answer.error, 'pair');
    await load();
    cards.get('pair').scrollIntoView({ block: 'nearest' });
  }
  root.querySelector('[data-do=pair]').addEventListener('click', openPair);
  root.querySelector('[data-do=twin]').addEventListener('click', async () => {
    const answer = await ask(server.study, { run, names: ['twin:' + text.value.trim()] });
    if (answer && answer.error) complain(answer.error, 'twin');
    else load();
  });
  other.addEventListener('change', load);

  // Another tab asks for two prompts side by side by opening the run here and sending the window event 'sp-pair' with
  // detail {run, other}; before or after the run is shown.
  let wanted = null;
  function answerPair() {
    if (!wanted || wanted.run !== run || ![...other.options].some((option) => option.value === wanted.other)) return;
    other.value = wanted.other;
    wanted = null;
    openPair();
  }
  window.addEventListener('sp-pair', (event) => { if (element.isConnected) { wanted = event.detail; answerPair(); } });

  return {
    show(id) {
      if (id !== run) { run = id; state = null; docs.clear(); drawn.clear(); shownHeader = ''; header.replaceChildren(make('p', 'sp-rd-sentence', 'Looking for what has been measured…')); }
      load();
    },
    pick(index) {
      picked = index;
      const host = body('tokens').columns, hadFocus = host?.contains(document.activeElement);
      host?.paint();
      if (hadFocus) host.querySelector('[tabindex="0"]')?.focus({ preventScroll: true });
      if (state) fillCard('attention');
    },
    report: () => file(server.report, {}),
  };
}
