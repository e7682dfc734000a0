// The token table: rows are made once and filled again; a row selects its token everywhere.

function makeTable(root, onPick) {
  const body = root.querySelector('tbody');
  const rows = [];
  let order = { key: 'i', down: false };
  let tokens = [];
  let added = null;     // by token: loss added when it is taken out, once that is measured

  const value = {
    i: (t) => t.i,
    score: (t) => (t.near.length ? t.near[0][1] : -Infinity),
    z: (t) => t.z ?? -Infinity,
    norm: (t) => t.norm,
    echo: (t) => (t.echo === null ? -1 : Number(t.echo)),
    delta: (t) => (added && added[t.i] ? added[t.i].delta : -Infinity),
    share: (t) => t.share[0],
  };

  function newRow(index) {
    const row = make('tr');
    row.dataset.index = index;
    const number = make('th');
    number.scope = 'row';
    const button = make('button', 'sp-in-number', String(index + 1));
    button.type = 'button';
    button.setAttribute('aria-pressed', 'false');
    number.append(button);
    const cells = ['near', 'z', 'norm', 'start', 'delta', 'share'].map((name) => make('td', 'c-' + name));
    row.append(number, ...cells);
    row.addEventListener('click', () => onPick(index));
    row.addEventListener('keydown', (event) => {
      const step = { ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling' }[event.key];
      const next = step && row[step];
      if (!next) return;
      event.preventDefault();
      next.querySelector('button').focus();
      onPick(Number(next.dataset.index), true);
    });
    return { row, button, cells };
  }

  function fill({ row, button, cells }, token, words, shown) {
    const [near, z, norm, start, delta, share] = cells;
    const weak = token.z !== null && token.z < WEAK_Z;
    row.classList.toggle('is-weak', weak);
    const [first, ...rest] = token.near;
    button.setAttribute('aria-label', 'Virtual token ' + (token.i + 1) + (first ? ', nearest word ' + words[first[0]][0] : ''));
    near.replaceChildren();
    if (first) {
      const best = make('div', 'sp-in-best');
      best.append(make('b', '', words[first[0]][0]), make('span', '', shown(first[1])));
      const more = make('div', 'sp-in-more');
      for (const [id, score] of rest) {
        const chip = make('span');
        chip.append(make('em', '', words[id][0]), make('small', '', shown(score)));
        more.append(chip, ' ');
      }
      near.append(best, more);
    }
    z.replaceChildren(make('b', '', token.z === null ? '–' : token.z.toFixed(1)));
    if (weak) z.append(make('small', 'sp-in-tag', 'chance'));
    const percentile = token.pct === null ? '' : ordinal(token.pct);
    norm.replaceChildren(make('b', '', twoDigits(token.norm)), make('small', '', percentile), meter(token.pct === null ? null : token.pct / 100));
    const echo = token.echo === null ? 'start not kept' : token.echo ? 'echoes the start' : 'new';
    start.replaceChildren(make('b', '', token.start ?? '–'), make('small', token.echo ? 'sp-in-tag' : '', echo));
    delta.hidden = !added;
    const loss = added && added[token.i];
    if (loss) delta.replaceChildren(make('b', '', (loss.delta < 0 ? '−' : '+') + Math.abs(loss.delta).toFixed(2)), make('small', '', loss.low.toFixed(2) + ' … ' + loss.high.toFixed(2)));
    share.replaceChildren(make('b', '', asPercent(token.share[0])), meter(token.share[0]));
    cells.forEach((cell, n) => { cell.dataset.label = ['', 'z', 'norm', 'start', 'without it', 'in picture'][n]; });
  }

  function ordinal(percentile) {
    const whole = Math.round(percentile);
    const tail = whole % 100 >= 11 && whole % 100 <= 13 ? 'th' : { 1: 'st', 2: 'nd', 3: 'rd' }[whole % 10] || 'th';
    return whole + tail + ' pct';
  }

  function meter(part) {
    const bar = make('i', 'sp-in-meter');
    bar.style.setProperty('--part', part ?? 0);
    return bar;
  }

  function sort() {
    const by = value[order.key];
    const sorted = [...tokens].sort((a, b) => (by(a) - by(b)) * (order.down ? -1 : 1) || a.i - b.i);
    const wanted = sorted.map((t) => rows[t.i].row);
    if (wanted.some((row, n) => body.children[n] !== row) || body.children.length !== wanted.length) body.replaceChildren(...wanted);
    for (const head of root.querySelectorAll('th[scope=col]')) {
      const mine = head.firstElementChild.dataset.sort === order.key;
      head.setAttribute('aria-sort', mine ? (order.down ? 'descending' : 'ascending') : 'none');
    }
  }

  for (const button of root.querySelectorAll('[data-sort]')) {
    button.addEventListener('click', () => {
      const key = button.dataset.sort;
      order = { key, down: order.key === key ? !order.down : key !== 'i' };
      sort();
    });
  }

  let last = null;
  const rendered = {
    show(reading) {
      last = reading;
      tokens = reading.tokens;
      while (rows.length < tokens.length) rows.push(newRow(rows.length));
      const isDistance = reading.about.measure.startsWith('distance');      // scores grow with nearness: distances are negated
      const shown = (score) => twoDigits(isDistance ? -score : score);
      for (const token of tokens) fill(rows[token.i], token, reading.words, shown);
      sort();
    },
    // Ablations of the tokens in order, or null while they are not measured.
    deltas(found) {
      const known = found && Object.fromEntries(found.map((a) => [a.index, a]));
      if (JSON.stringify(known) === JSON.stringify(added)) return;
      added = known;
      root.querySelector('th.c-delta').hidden = !added;
      if (last) rendered.show(last);
      window.dispatchEvent(new Event('resize'));      // the column takes room from the map
    },
    pick(index, { scroll }) {
      rows.forEach(({ row, button }, n) => {
        row.classList.toggle('is-picked', n === index);
        button.setAttribute('aria-pressed', String(n === index));
      });
      if (scroll && index !== null && rows[index]) rows[index].row.scrollIntoView({ block: 'nearest' });
    },
  };
  return rendered;
}
