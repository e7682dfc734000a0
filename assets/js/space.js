// What map, table and panes share. Each script runs inside one function of its component; nothing is global.
// Text of the vocabulary is hostile: textContent on the page, `plain` inside Plotly, never innerHTML.

const WEAK_Z = 3;

const plain = (text) => String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;');

async function withPlotly() {
  while (!window.Plotly) await new Promise((done) => setTimeout(done, 50));
  return window.Plotly;
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined && text !== null) node.textContent = text;
  return node;
}

// Asks the server; an empty answer means that nothing has changed.
async function ask(source, value) {
  const answer = await source(value);
  return answer ? JSON.parse(answer) : null;
}

const isSeen = (node) => !document.hidden && node.isConnected && node.offsetParent !== null;

const shade = (node, name) => getComputedStyle(node).getPropertyValue(name).trim() || '#888';

// Calls back when the page turns from light to dark or back.
function onTheme(node, callback) {
  const watcher = new MutationObserver(() => (node.isConnected ? callback() : watcher.disconnect()));
  for (const root of [document.documentElement, document.body]) {
    watcher.observe(root, { attributes: true, attributeFilter: ['class', 'data-theme', 'style'] });
  }
}

const asPercent = (share, digits = 0) => (share === null ? '–' : (100 * share).toFixed(digits) + ' %');

const twoDigits = (value) => (value === null || value === undefined ? '–' : Number(value).toFixed(2));

// One vocabulary picture a base model, however many charts show it.
const clouds = new Map();
async function cloudOf(source, key) {
  if (!clouds.has(key)) clouds.set(key, ask(source, key));
  const cloud = await clouds.get(key);
  if (!cloud || cloud.error) clouds.delete(key);
  return cloud;
}

// [low, high] of some numbers with a margin.
function span(values, margin = 0.06) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (!(low <= high)) return [-1, 1];
  const pad = (high - low || 1) * margin;
  return [low - pad, high + pad];
}

const join = ([a, b], [c, d]) => [Math.min(a, c), Math.max(b, d)];
