// A model with weights of few bits, in the page: pure functions first, then the picture.

export const FULL = 32; // bits: nothing is rounded
const SIZE = 32; // numbers in a group
const GROUPS = [["tensor", "each matrix"], ["row", "each row"], ["32", "each group of 32"]];
const SAID = Object.fromEntries(GROUPS);

// The float32 that a float16 of these two bytes stands for.
export function half(low, high) {
  const [exponent, fraction] = [(high >> 2) & 31, low + 256 * (high & 3)];
  const size = exponent === 31 ? (fraction ? NaN : Infinity) : exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction;
  return high & 128 ? -size : size;
}

// The bytes of all numbers, first every low one, then every high one, to a model.
export function unpackHalves(bytes, layout, form) {
  const all = Float32Array.from({ length: bytes.length / 2 }, (_, i) => half(bytes[i], bytes[i + bytes.length / 2]));
  let at = 0;
  const tensors = Object.fromEntries(layout.map(([name, rows, columns]) => [name, all.subarray(at, (at += rows * (columns || 1)))]));
  return network(tensors, layout, form);
}

// How many consecutive numbers of a matrix share a scale.
const shared = (group, rows, columns) => ({ tensor: rows * columns, row: columns, 32: SIZE })[group];

// A matrix rounded to the symmetric grid of each group, as the numbers that its codes stand for.
export function roundMatrix(w, size, bits) {
  const out = new Float32Array(w.length);
  for (let from = 0; from < w.length; from += size) {
    let most = 0;
    for (let i = from; i < from + size; i++) most = Math.max(most, Math.abs(w[i]));
    const grid = gridOf(-most, most, bits, true);
    for (let i = from; i < from + size; i++) out[i] = valueOf(codeOf(w[i], grid), grid);
  }
  return out;
}

// Whether a tensor is quantized: matrices are, the embedding table only on demand, vectors never.
const taken = (name, columns, embedding) => columns > 0 && (embedding || !name.startsWith("embed_"));

// The model with quantized matrices.
export function quantizeModel(net, layout, { bits, group, embedding }) {
  if (bits === FULL) return net;
  const tensors = { ...net.tensors };
  for (const [name, rows, columns] of layout)
    if (taken(name, columns, embedding)) tensors[name] = roundMatrix(net.tensors[name], shared(group, rows, columns), bits);
  return { ...net, tensors };
}

// Bytes of the quantized matrices, before and after, with a scale of 32 bits for each group; and bits per weight.
export function stored(layout, { bits, group, embedding }) {
  let [numbers, scales] = [0, 0];
  for (const [name, rows, columns] of layout) {
    if (!taken(name, columns, embedding)) continue;
    numbers += rows * columns;
    scales += bits === FULL ? 0 : (rows * columns) / shared(group, rows, columns);
  }
  return { before: 4 * numbers, after: (bits * numbers + 32 * scales) / 8, each: bits + (32 * scales) / numbers };
}

// The loss on `ids`, of which the first is given: after each token the bits so far and the bytes predicted so far.
export function* losses(net, ids, bytes) {
  const cache = emptyCache(net);
  let [total, length] = [0, 0];
  for (let i = 0; i + 1 < ids.length; i++) {
    const logits = step(net, cache, ids[i]);
    const highest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const sum = logits.reduce((all, logit) => all + Math.exp(logit - highest), 0);
    total += (highest + Math.log(sum) - logits[ids[i + 1]]) / Math.LN2;
    length += bytes[ids[i + 1]].length;
    yield { total, length };
  }
}

// `length` ids after those of the prompt, each the one with the highest logit / temperature + Gumbel noise, which samples
// from the softmax. With the same seed two models meet the same noise, so their texts differ only where the models do.
export function* writeCoupled(net, prompt, { text, temperature, seed, length }) {
  const random = generator(seed);
  const cache = emptyCache(net);
  let logits = read(net, cache, prompt);
  for (let n = 0; n < length; n++) {
    let [best, highest] = [0, -Infinity];
    for (let id = 0; id < text; id++) {
      const noise = -Math.log(-Math.log(random() + 2 ** -33));
      const score = logits[id] + temperature * noise;
      if (score > highest) [best, highest] = [id, score];
    }
    yield best;
    logits = read(net, cache, [best]);
  }
}

// How many tokens two texts share at their beginning.
export function common(a, b) {
  const at = a.findIndex((id, i) => id !== b[i]);
  return at < 0 ? a.length : at;
}

const megabytes = (n) => `${(n / 1e6).toFixed(2)} MB`;

// What is to be seen, in words; `full` and `now` hold the ids of a text and the bits per byte.
export function describe(layout, setting, full, now) {
  const { before, after, each } = stored(layout, setting);
  if (setting.bits === FULL)
    return `With 32 bits the matrices take ${megabytes(before)}, and the model needs ${full.loss.toFixed(2)} bits per byte of the passage. Turn the bits down.`;
  const same = common(now.ids, full.ids);
  const text = same === now.ids.length ? `its text is that of 32 bits, for all of its ${many(same, "token")}`
    : same ? `its text is that of 32 bits for ${many(same, "token")}` : "its text differs from that of 32 bits in the first token";
  return `With ${setting.bits} bits and a scale for ${SAID[setting.group]} (${each.toFixed(2)} bits a weight) the matrices take ${megabytes(after)} instead of ${megabytes(before)}, ` +
    `the model needs ${now.loss.toFixed(2)} bits per byte of the passage instead of ${full.loss.toFixed(2)}, and ${text}.`;
}

const LENGTH = 80; // tokens of a text
const PAUSE = 16; // milliseconds between two steps
const WORST = 5; // bits per byte at the end of a bar
const BITS = [2, 3, 4, 5, 6, 7, 8, FULL];

// The measured table: a row for each number of bits, a column for each kind of group.
function levels(rows, choose) {
  const columns = GROUPS.filter(([group]) => rows.some((row) => row[0] !== FULL && row[1] === group));
  const best = Math.min(...rows.map((row) => row[2]));
  const shade = (value) => Math.min(38, 25 * (value - best)).toFixed(0);
  const cell = (bits, group, span) => {
    const found = rows.find((row) => row[0] === bits && (bits === FULL || row[1] === group));
    if (!found) return html("td", {}, "–");
    return html("td", { colspan: span, style: `--shade: ${shade(found[2])}`, "data-bits": bits, "data-group": bits === FULL ? "" : group, onclick: () => choose(bits, group) }, found[2].toFixed(2));
  };
  const used = [...new Set(rows.map((row) => row[0]))].sort((a, b) => b - a);
  return html("table", { class: "levels" },
    html("caption", {}, "Bits per byte on the whole held-out text, measured beforehand"),
    html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "bits"), ...columns.map(([, said]) => html("th", { scope: "col" }, said.replace("each ", ""))))),
    html("tbody", {}, ...used.map((bits) => html("tr", {}, html("th", { scope: "row" }, String(bits)),
      ...(bits === FULL ? [cell(bits, "", columns.length)] : columns.map(([group]) => cell(bits, group, 1)))))));
}

function render({ model, el }) {
  const { bytes, encode, decoder } = tokenizer(model.get("merges"));
  const layout = model.get("tensors");
  const form = Object.fromEntries(["heads", "context", "theta"].map((name) => [name, model.get(name)]));
  const embedding = model.get("embedding");
  const size = layout.reduce((sum, [, rows, columns]) => sum + rows * (columns || 1), 0);
  const passage = encode(model.get("passage")).slice(0, form.context);
  const [prompt, temperature] = ["prompt", "temperature"].map((name) => model.get(name));
  const found = new Map(); // a setting to its text and its loss
  let net, loading;
  let run = 0; // the number of the newest run; an older one ends
  const change = (name) => (value) => put(model, name, value);
  const bits = slider("Bits", change("bits"), (n) => (n === FULL ? "32, nothing is rounded" : String(n)));
  const group = select("One scale for", GROUPS, change("group"));
  const button = html("button", { type: "button", class: "write", onclick: () => (net ? put(model, "seed", model.get("seed") + 1) : begin()) }, "Load the model");
  const page = (name) => {
    const [head, same, other] = [html("p", { class: "head" }, name), html("span", { class: "same" }), html("span")];
    const text = html("div", { class: "writing", tabindex: 0, role: "group", "aria-label": name }, html("b", {}, prompt), same, other);
    return { part: html("div", {}, head, text), head, text, show: (kept, rest) => { [same.textContent, other.textContent] = [kept, rest]; text.scrollTop = text.scrollHeight; }, top: () => { text.scrollTop = 0; } };
  };
  const [above, below] = [page("With 32 bits"), page("With fewer bits")];
  const bars = html("ul", { class: "bars losses", "aria-label": "Bits per byte of the passage" });
  const table = model.get("rows").length ? levels(model.get("rows"), (n, kind) => { if (kind) put(model, "group", kind); put(model, "bits", n); }) : "";
  const rounded = embedding ? "All matrices are rounded; the norms are not." : "The matrices of the layers are rounded; the norms and the embedding table, which is also the head, are not.";
  const { question, sentence } = frame(el, "Bits dial", [bits.label, group.label, button], [
    html("div", { class: "pair" },
      html("div", { class: "whole texts" }, above.part, below.part, html("p", { class: "head" }, `Bits per byte of a passage of ${many(passage.length, "token")} that the model has not seen`), bars),
      table ? html("div", { class: "part" }, table) : ""),
    html("p", { class: "note" }, `Grey: the same as with 32 bits. The page holds the 16-bit floats in which the checkpoint was stored, so nothing is lost at 32 bits. ${rounded}`)]);
  question.textContent = "Predict: at how many bits does the model stop writing English? Decide, then turn the bits down.";
  const say = (text) => void (sentence.textContent = text);
  const setting = () => ({ bits: model.get("bits"), group: model.get("group"), embedding });
  const name = ({ bits: n, group: kind }) => (n === FULL ? "full" : `${n} ${kind}`);
  const pieces = (ids) => { const decode = decoder(); return ids.map(decode); };

  function draw(now, full) {
    const { bits: n } = setting();
    below.part.hidden = n === FULL;
    below.head.textContent = `With ${n} bits, a scale for ${SAID[model.get("group")]}`;
    below.text.setAttribute("aria-label", below.head.textContent);
    const line = (said, loss) => bar(said, Math.min(1, (loss ?? 0) / WORST), loss === undefined ? "…" : loss.toFixed(2));
    bars.replaceChildren(line("32 bits", full?.loss), ...(n === FULL ? [] : [line(`${n} bits`, now?.loss)]));
    if (full) above.show("", pieces(full.ids).join(""));
    if (n === FULL) return;
    const text = pieces(now?.ids ?? []);
    const same = now ? common(now.ids, full.ids) : 0;
    below.show(text.slice(0, same).join(""), text.slice(same).join(""));
  }

  const load = () => (loading ??= fetchData(model, WEIGHTS, model.get("weights"))
    .then(inflate)
    .then((data) => (net = unpackHalves(data, layout, form)))
    .catch((error) => {
      loading = undefined; // may be tried again
      throw error;
    }));

  const pause = (time) => new Promise((resolve) => setTimeout(resolve, time));

  // Writes a text and measures the loss, a little of each at a time; ends early, with nothing, where a newer run has begun.
  async function compute(mine, how, show) {
    const quantized = quantizeModel(net, layout, how);
    const options = { text: bytes.length, temperature, seed: model.get("seed"), length: LENGTH };
    const text = writeCoupled(quantized, encode(prompt || "\n"), options);
    const loss = losses(quantized, passage, bytes);
    const now = { ids: [], loss: undefined };
    const several = Math.ceil(passage.length / LENGTH);
    for (let ended = false; !ended; ) {
      const token = text.next();
      if (!token.done) now.ids.push(token.value);
      ended = token.done;
      for (let i = 0; i < several; i++) {
        const next = loss.next();
        if (!next.done) [now.loss, ended] = [next.value.total / next.value.length, false];
      }
      show(now);
      await pause(PAUSE);
      if (mine !== run) return undefined;
    }
    return now;
  }

  async function begin() {
    const mine = ++run;
    const how = setting();
    if (!net) say(`Loading the weights: ${many(size, "number")} of 16 bits each.`);
    try {
      await load();
    } catch {
      if (mine === run) say("The weights could not be loaded, so the model cannot run here.");
      return;
    }
    if (mine !== run) return;
    button.textContent = "Another text";
    for (const one of [{ ...how, bits: FULL }, how]) {
      const key = name(one);
      const full = found.get("full");
      if (!found.has(key)) {
        say(`The model is writing with ${one.bits} bits, and its loss on the passage is being measured.`);
        const now = await compute(mine, one, (so) => draw(key === "full" ? undefined : so, key === "full" ? so : full));
        if (!now) return;
        found.set(key, now);
      }
    }
    const [full, now] = [found.get("full"), found.get(name(how))];
    draw(now, full);
    for (const one of [above, below]) one.top(); // where the texts may be compared
    say(describe(layout, how, full, now));
  }

  let seed = model.get("seed");
  const end = follow(model, ["bits", "group", "seed"], () => {
    const { bits: n, group: kind } = setting();
    bits.show(n, BITS);
    group.show(kind);
    if (table) for (const cell of table.querySelectorAll("td"))
      if (cell.dataset.bits === String(n) && (n === FULL || cell.dataset.group === kind)) cell.setAttribute("aria-current", "true");
      else cell.removeAttribute("aria-current");
    if (seed !== model.get("seed")) found.clear();
    seed = model.get("seed");
    draw(found.get(name(setting())), found.get("full"));
    if (net) begin();
    else say(`Press ‘Load the model’: a model of ${size.toLocaleString("en")} parameters, 4 MB, comes into your browser and writes there.`);
  });
  return () => {
    run++;
    end();
  };
}

export default { render };
