// Temperature and filters on the logits of one position: pure functions first, then the picture.

const logSum = (numbers) => {
  const top = Math.max(...numbers);
  return top === -Infinity ? top : top + Math.log(numbers.reduce((sum, x) => sum + Math.exp(x - top), 0));
};

// A state: the logits of the drawn tokens (-Infinity where removed), the temperature that has acted, and whether the
// others, which are not drawn and all less likely, are still there. They stay or go together.
export const start = (row) => ({ logits: row.logits, T: 1, rest: row.next !== null });

// What the others weigh together, as a logit.
const others = (row, temperatures, { rest, T }) => (rest ? row.rest[temperatures.indexOf(T)] : -Infinity);

export const probabilities = (row, temperatures, state) => {
  const rest = others(row, temperatures, state);
  const total = logSum([...state.logits, rest]);
  return { each: state.logits.map((x) => Math.exp(x - total)), rest: Math.exp(rest - total) };
};

const keep = (state, test, rest) => ({ ...state, logits: state.logits.map((x, i) => (test(x, i) ? x : -Infinity)), rest: state.rest && rest });

export const APPLY = {
  temperature: (row, all, state, T) => ({ ...state, logits: state.logits.map((x) => x / T), T }),
  // The k largest, and those equal to the last of them.
  top_k: (row, all, state, k) => {
    const sorted = state.logits.toSorted((a, b) => b - a);
    if (k > sorted.length) return state;
    return keep(state, (x) => x >= sorted[k - 1], row.next !== null && row.next / state.T >= sorted[k - 1]);
  },
  // The fewest most likely ones with probability p together; the one that crosses p belongs to them.
  top_p: (row, all, state, p) => {
    const { each } = probabilities(row, all, state);
    const order = each.map((_, i) => i).toSorted((a, b) => each[b] - each[a] || a - b);
    const kept = new Set();
    let before = 0;
    for (const i of order) {
      if (before < p) kept.add(i);
      before += each[i];
    }
    return keep(state, (_, i) => kept.has(i), before < p);
  },
  // At least this share of the largest probability.
  min_p: (row, all, state, share) => {
    const least = Math.max(...state.logits) + Math.log(share);
    return keep(state, (x) => x >= least, row.next !== null && row.next / state.T >= least);
  },
};

// All active steps in their order.
export function run(row, temperatures, order, active, values) {
  let state = start(row);
  for (const name of order) if (active.includes(name)) state = APPLY[name](row, temperatures, state, values[name]);
  return state;
}

// How many of the vocabulary are left, the others counted as all or none.
export const left = (row, state) => state.logits.filter((x) => x > -Infinity).length + (state.rest ? row.size - row.tokens.length : 0);

// In bits.
export const entropy = ({ each, rest }) => [...each, rest].reduce((sum, p) => sum - (p > 0 ? p * Math.log2(p) : 0), 0);

// Half of the sum of all differences: how far two distributions are apart.
export const distance = (a, b) => [...a.each, a.rest].reduce((sum, p, i) => sum + Math.abs(p - [...b.each, b.rest][i]), 0) / 2;

// Seeded draws from a distribution, counted; the last count is that of the others.
export function draws({ each, rest }, n, seed) {
  const uniform = generator(seed);
  const counts = Array(each.length + 1).fill(0);
  for (let i = 0; i < n; i++) {
    let u = uniform() * ([...each].reduce((a, b) => a + b, 0) + rest);
    let at = each.findIndex((p) => (u -= p) < 0);
    counts[at < 0 ? each.length : at]++;
  }
  return counts;
}

const NAMES = { temperature: "temperature", top_k: "top-k", top_p: "top-p", min_p: "min-p" };
const listed = (names) => names.map((name) => NAMES[name]).join(", then ");

// What is to be seen, in words; `other` is the best known other order: temperature moved to the other end.
export function describe(row, temperatures, order, active, values) {
  const used = order.filter((name) => active.includes(name));
  const state = run(row, temperatures, order, active, values);
  const [n, mass] = [left(row, state), probabilities(row, temperatures, start(row))];
  const kept = mass.each.reduce((sum, p, i) => sum + (state.logits[i] > -Infinity ? p : 0), 0) + (state.rest ? mass.rest : 0);
  if (!used.length) return `Nothing acts: all ${row.size.toLocaleString("en")} tokens can be sampled, with the model's own probabilities.`;
  const first = `${n.toLocaleString("en")} of ${row.size.toLocaleString("en")} tokens ${n === 1 ? "is" : "are"} left after ${listed(used)}; ` +
    `the model gave ${n === 1 ? "it" : "them"} ${percent(kept)} of the probability.`;
  if (!active.includes("temperature") || used.length < 2) return first;
  const last = used.at(-1) === "temperature";
  const moved = last ? ["temperature", ...used.slice(0, -1)] : [...used.filter((name) => name !== "temperature"), "temperature"];
  const also = run(row, temperatures, moved, active, values);
  const far = distance(probabilities(row, temperatures, state), probabilities(row, temperatures, also));
  return `${first} With the temperature ${last ? "first" : "last"}, ${left(row, also).toLocaleString("en")} would be left; the two distributions are ${percent(far)} apart.`;
}

// What a grammar leaves, in words.
export function describeGrammar(row) {
  return `After ‘${[...row.prompt.slice(-30)].map(visible).join("")}’ the grammar leaves ${row.left.toLocaleString("en")} of ${row.size.toLocaleString("en")} tokens, ` +
    `to which the model gives ${percent(row.mass)} of the probability; the mask divides by that.`;
}

const SHOWN = 16; // bars
const ALL = { top_k: [1, 2, 3, 5, 7, 10, 15, 20, 30, 40], top_p: [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99], min_p: [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5] };

function render({ model, el }) {
  const [rows, grammar, temperatures] = ["rows", "grammar", "temperatures"].map((name) => model.get(name));
  const change = (name) => (value) => put(model, name, value);
  const token = (text) => [...text].map(visible).join("");
  const clip = (text) => (text.length > 40 ? `…${text.slice(-40)}` : text || "(nothing)");
  const which = select("Text so far", rows.map(({ prompt }, i) => [String(i), clip(token(prompt))]), (i) => put(model, "row", Number(i)));
  const place = select("Text so far", grammar.map(({ prompt }, i) => [String(i), clip(token(prompt))]), (i) => put(model, "prefix", Number(i)));
  const tabs = ["filters", "grammar"].map((name) =>
    html("button", { type: "button", onclick: () => put(model, "tab", name) }, name === "filters" ? "Filters" : "Grammar"));
  const dialsOf = Object.fromEntries(Object.keys(NAMES).map((name) => [name, slider(NAMES[name], change(name))]));
  const flags = Object.fromEntries(Object.keys(NAMES).map((name) => [name, toggle(`use ${NAMES[name]}`, (on) =>
    put(model, "active", on ? [...model.get("active"), name] : model.get("active").filter((one) => one !== name)))]));
  const move = (name, to) => {
    const order = model.get("order").filter((one) => one !== name);
    order.splice(to, 0, name);
    put(model, "order", order);
  };
  let dragged = null;
  const items = Object.fromEntries(Object.keys(NAMES).map((name) => {
    const up = html("button", { type: "button", "aria-label": `${NAMES[name]} earlier`, onclick: () => move(name, model.get("order").indexOf(name) - 1) }, "↑");
    const down = html("button", { type: "button", "aria-label": `${NAMES[name]} later`, onclick: () => move(name, model.get("order").indexOf(name) + 1) }, "↓");
    const item = html("li", {
      class: "step",
      ondragover: (event) => event.preventDefault(),
      ondrop: (event) => { event.preventDefault(); if (dragged) move(dragged, model.get("order").indexOf(name)); dragged = null; },
    }, html("span", { class: "handle", "aria-hidden": "true", draggable: "true", ondragstart: () => { dragged = name; } }, "⠿"), flags[name].label, dialsOf[name].label, html("span", { class: "moves" }, up, down));
    return [name, { item, up, down }];
  }));
  const steps_ = html("ol", { class: "steps", "aria-label": "Steps, the first one acts first" });
  const more = html("button", { type: "button", onclick: () => put(model, "samples", Math.min(model.get("samples") + 100, 2000)) }, "Sample 100 tokens");
  const none = html("button", { type: "button", onclick: () => put(model, "samples", 0) }, "Forget them");
  const list = html("ul", { class: "bars twice", "aria-label": "Probabilities of the next token" });
  const note = html("p", { class: "note" });
  const filters = html("div", { class: "panel" }, dials(which), steps_, html("div", { class: "buttons" }, more, none));
  const structure = html("div", { class: "panel" }, dials(place));
  const { question, sentence } = frame(el, "Sampling explorer",
    [...(grammar.length ? [html("div", { class: "buttons tabs" }, ...tabs)] : []), filters, structure], [note, list]);

  return follow(model, ["tab", "row", "prefix", "order", "active", "temperature", "top_k", "top_p", "min_p", "samples"], () => {
    const inGrammar = grammar.length > 0 && model.get("tab") === "grammar";
    [filters.hidden, structure.hidden] = [inGrammar, !inGrammar];
    tabs.forEach((tab, i) => tab.setAttribute("aria-pressed", String((i === 1) === inGrammar)));
    if (inGrammar) {
      const row = grammar[model.get("prefix")];
      place.show(String(model.get("prefix")));
      question.textContent = "Predict: which tokens does the expression leave here? Decide, then choose a longer text.";
      const before = probabilities(row, temperatures, start(row)).each;
      const top = Math.max(...before, ...before.map((p, i) => (row.allowed[i] ? p / row.mass : 0)));
      note.textContent = "Thin: the model's probability. Thick: after the mask. Struck through: forbidden.";
      list.replaceChildren(...row.tokens.slice(0, SHOWN).map((text, i) =>
        line(token(text), before[i] / top, row.allowed[i] ? before[i] / row.mass / top : 0, row.allowed[i], percent(row.allowed[i] ? before[i] / row.mass : 0))));
      sentence.textContent = describeGrammar(row);
      return;
    }
    const row = rows[model.get("row")];
    const [order, active] = [model.get("order"), model.get("active")];
    const values = Object.fromEntries(Object.keys(NAMES).map((name) => [name, model.get(name)]));
    question.textContent = "Predict: does it matter whether the temperature acts before or after top-p? Decide, then drag one of them.";
    which.show(String(model.get("row")));
    steps_.replaceChildren(...order.map((name) => items[name].item));
    order.forEach((name, i) => {
      [items[name].up.disabled, items[name].down.disabled] = [i === 0, i === order.length - 1];
      flags[name].show(active.includes(name));
      dialsOf[name].show(values[name], name === "temperature" ? temperatures : steps(ALL[name], values[name]));
      items[name].item.classList.toggle("off", !active.includes(name));
    });
    const n = model.get("samples");
    none.disabled = n === 0;
    more.disabled = n >= 2000;
    const [before, state] = [probabilities(row, temperatures, start(row)), run(row, temperatures, order, active, values)];
    const after = probabilities(row, temperatures, state);
    const counts = draws(after, n, 1);
    const top = Math.max(...before.each, ...after.each, before.rest, after.rest);
    const said = (p, count) => percent(p) + (n ? `; ${count} of ${n}` : "");
    const bars = row.tokens.slice(0, SHOWN).map((text, i) => line(token(text), before.each[i] / top, after.each[i] / top, state.logits[i] > -Infinity, said(after.each[i], counts[i])));
    const sum = (list) => list.slice(SHOWN).reduce((a, b) => a + b, 0);
    const hidden = row.size - Math.min(SHOWN, row.tokens.length);
    if (hidden) {
      const [b, a] = [sum(before.each) + before.rest, sum(after.each) + after.rest];
      bars.push(line(`${hidden.toLocaleString("en")} others`, b / top, a / top, a > 0, said(a, sum(counts))));
    }
    list.replaceChildren(...bars);
    note.textContent = `Thin: the model's probability. Thick: after all steps. Struck through: removed. Entropy, what is not drawn counted as one token: ${entropy(before).toFixed(2)} → ${entropy(after).toFixed(2)} bits.`;
    sentence.textContent = describe(row, temperatures, order, active, values);
  });
}

// A token with two bars: the model's probability, and what has become of it.
function line(name, before, after, kept, value) {
  const part = (share, kind) => html("div", { class: `bar ${kind}`, style: `width: ${Math.min(100, 100 * share)}%` });
  return html("li", kept ? {} : { class: "removed" }, html("span", { class: "mono" }, name),
    html("div", { class: "track" }, part(before, "before"), part(after, "after")), html("span", { class: "value" }, value));
}

export default { render };
