// The vocabulary as fine dust on a canvas under a transparent Plotly chart: it follows the chart's axes, costs a few
// milliseconds a frame and needs no WebGL. The word under the pointer is named beside it, as plain text.

const NEAR_PIXELS = 7;

// host: holds the canvas, the chart `plot` and the name; onWord(text, xyz) hears a click on a word.
function makeDust(host, plot, onWord) {
  const canvas = host.querySelector('canvas');
  const label = host.querySelector('.sp-in-name');
  const pen = canvas.getContext('2d');
  let cloud = null, also = [], hidden = false, taken = false, range = null;

  // Maps grid units to pixels of the host, [slope, offset] an axis.
  function axes() {
    const full = plot._fullLayout;
    if (!full || !full.xaxis || !full.xaxis._length) return null;
    const { xaxis, yaxis } = full;
    const [x0, x1] = (range && range.x) || xaxis.range;
    const [y0, y1] = (range && range.y) || yaxis.range;
    const sx = xaxis._length / (x1 - x0), sy = -yaxis._length / (y1 - y0);
    return { sx, sy, ox: xaxis._offset - x0 * sx, oy: yaxis._offset - y1 * sy,
      left: xaxis._offset, top: yaxis._offset, wide: xaxis._length, high: yaxis._length };
  }

  function draw() {
    const scale = window.devicePixelRatio || 1;
    const { clientWidth: wide, clientHeight: high } = host;
    if (canvas.width !== wide * scale || canvas.height !== high * scale) {
      canvas.width = wide * scale;
      canvas.height = high * scale;
    }
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, wide, high);
    const to = cloud && !hidden && axes();
    canvas.dataset.drawn = to ? cloud.drawn : 0;
    if (!to) return;
    const [xs, ys] = cloud.xyz;
    const size = Math.max(1.3, Math.min(2.4, 120 / Math.sqrt(xs.length)));
    pen.save();
    pen.beginPath();
    pen.rect(to.left, to.top, to.wide, to.high);
    pen.clip();
    pen.fillStyle = shade(host, '--sp-dust');
    pen.globalAlpha = xs.length > 9000 ? 0.3 : 0.42;
    for (let n = 0; n < xs.length; n++) pen.fillRect(to.ox + xs[n] * to.sx, to.oy + ys[n] * to.sy, size, size);
    pen.restore();
  }

  // The word under the pointer, {text, xyz, x, y}: one of the neighbours rather than one of the crowd.
  function nearest(event) {
    const to = cloud && !taken && axes();
    if (!to) return null;
    const box = host.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let least = NEAR_PIXELS ** 2;
    const closer = (wx, wy) => {
      const far = (to.ox + wx * to.sx - x) ** 2 + (to.oy + wy * to.sy - y) ** 2;
      if (far >= least) return false;
      least = far;
      return true;
    };
    let word = null, best = -1;
    for (const candidate of also) if (closer(candidate.xyz[0], candidate.xyz[1])) word = candidate;
    const [xs, ys] = cloud.xyz;
    if (!word && !hidden) for (let n = 0; n < xs.length; n++) if (closer(xs[n], ys[n])) best = n;
    if (!word && best >= 0) word = { text: cloud.text[best], xyz: cloud.xyz.map((axis) => axis[best]) };
    return word && { ...word, x, y };
  }

  function name(event) {
    const hit = label && nearest(event);
    if (label) label.hidden = !hit;
    if (!hit) return;
    label.textContent = hit.text;
    label.style.left = Math.min(hit.x + 12, host.clientWidth - label.offsetWidth) + 'px';
    label.style.top = hit.y - 30 + 'px';
  }

  let frame = 0;
  const soon = () => { cancelAnimationFrame(frame); frame = requestAnimationFrame(draw); };

  if (onWord) {
    host.addEventListener('pointermove', name);
    host.addEventListener('pointerleave', () => { label.hidden = true; });
    let from = null;
    host.addEventListener('pointerdown', (event) => { from = [event.clientX, event.clientY]; }, true);
    host.addEventListener('pointerup', (event) => {
      const still = from && Math.hypot(event.clientX - from[0], event.clientY - from[1]) < 4;
      const hit = still && nearest(event);
      if (hit) onWord(hit.text, hit.xyz);
    }, true);
  }
  new ResizeObserver(soon).observe(host);

  return {
    // Call once, after the first Plotly.newPlot.
    follow() {
      plot.on('plotly_hover', () => { taken = true; if (label) label.hidden = true; });
      plot.on('plotly_unhover', () => { taken = false; });
      plot.on('plotly_relayouting', (change) => {
        const of = (axis) => (change[axis + '.range[0]'] === undefined ? null : [change[axis + '.range[0]'], change[axis + '.range[1]']]);
        range = { x: of('xaxis'), y: of('yaxis') };
        soon();
      });
      plot.on('plotly_relayout', () => { range = null; soon(); });
      plot.on('plotly_afterplot', () => { range = null; soon(); });
    },
    // words: further ones to name, [{text, xyz}].
    show(newCloud, isHidden, words = []) { cloud = newCloud; hidden = isHidden; also = words; soon(); },
    picture: () => { draw(); return canvas.toDataURL(); },
  };
}
