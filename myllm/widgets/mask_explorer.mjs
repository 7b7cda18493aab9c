// A model of attention layers alone, and what it writes under any mask: pure functions first, then the picture.

// The bits of a float16 to its number.
export function half(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (!exponent) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// The widget's state to matrices, each a list of rows.
export function unpack({ tokens, positions, width, layers, data }) {
  const bytes = atob(data);
  let at = 0;
  const number = () => half(bytes.charCodeAt(at++) + 256 * bytes.charCodeAt(at++));
  const matrix = (rows) => Array.from({ length: rows }, () => Array.from({ length: width }, number));
  return {
    embed: matrix(tokens),
    positions: matrix(positions),
    layers: Array.from({ length: layers }, () => ({ q: matrix(width), k: matrix(width), v: matrix(width), o: matrix(width) })),
    head: matrix(tokens),
  };
}

const dot = (a, b) => a.reduce((sum, number, i) => sum + number * b[i], 0);
const add = (a, b) => a.map((number, i) => number + b[i]);
const project = (x, matrix) => x.map((row) => matrix.map((weights) => dot(weights, row)));

// Softmax over what the mask leaves; all 0 where it leaves nothing.
export function softmax(scores, allowed) {
  const highest = Math.max(...scores.filter((_, i) => allowed[i]));
  const powers = scores.map((score, i) => (allowed[i] ? Math.exp(score - highest) : 0));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / (total || 1));
}

// One layer: rows x and the mask [head][q][k] to what is added to x, and the weights [head][q][k].
export function attention(layer, x, mask) {
  const [q, k, v] = [layer.q, layer.k, layer.v].map((matrix) => project(x, matrix));
  const size = q[0].length / mask.length;
  const means = x.map(() => []);
  const weights = mask.map((allowed, h) => {
    const part = (rows) => rows.map((row) => row.slice(h * size, (h + 1) * size));
    const [keys, values] = [part(k), part(v)];
    return part(q).map((query, i) => {
      const row = softmax(keys.map((key) => dot(query, key) / Math.sqrt(size)), allowed[i]);
      means[i].push(...values[0].map((_, d) => row.reduce((sum, weight, j) => sum + weight * values[j][d], 0)));
      return row;
    });
  });
  return { added: project(means, layer.o), weights };
}

// Ids and the mask [head][q][k] to logits [position][token] and weights [layer][head][q][k].
export function forward(model, ids, mask) {
  let x = ids.map((id, at) => add(model.embed[id], model.positions[at]));
  const weights = model.layers.map((layer) => {
    const seen = attention(layer, x, mask);
    x = x.map((row, at) => add(row, seen.added[at]));
    return seen.weights;
  });
  return { logits: project(x, model.head), weights };
}

// Goes on from `ids` by `length` tokens, always with the likeliest; `weights` are those of the last token's step.
export function generate(model, heads, ids, length, allows) {
  let weights = [];
  const written = [];
  while (written.length < length) {
    const read = [...ids, ...written];
    const seen = forward(model, read, build(allows, heads, read.length));
    const last = seen.logits.at(-1);
    written.push(last.indexOf(Math.max(...last)));
    weights = seen.weights;
  }
  return { written, weights };
}

// What is seen, in words; without a model `wanted` is empty.
export function describe({ said, remain, T, where = "", wanted = "", written = "" }) {
  const pairs = `${said}: ${remain} of ${T * T} ${T > 1 ? "pairs" : "pair"} ${remain === 1 ? "remains" : "remain"}${where}`;
  if (!wanted) return `${pairs}.`;
  const right = [...wanted].filter((letter, i) => letter === [...written][i]).length;
  return `${pairs}; the model writes ${written}, ${right} of ${wanted.length} ${wanted.length > 1 ? "letters" : "letter"} right.`;
}

const SEPARATOR = "|";
const CELL = 10; // units of the drawing
const EDGE = 13; // room for the tokens at the edges

function render({ model, el }) {
  const packed = model.get("weights");
  const net = packed.data ? unpack(packed) : null;
  const [alphabet, heads] = [[...model.get("alphabet")], model.get("heads")];
  const longest = net ? Math.floor(packed.positions / 2) : 32;
  const usable = (text) => [...text].filter((letter) => !net || alphabet.includes(letter)).slice(0, longest);
  const cursor = { q: 0, k: 0 };
  let shown = null; // what the picture shows: the last rule and string that could be read

  const option = (value, name) => html("option", { value }, name);
  const kind = html("select", { onchange: () => {
    const chosen = kind.value; // kept, for drawing the first change sets the field back
    if (chosen === "own") put(model, "rule", rule.value);
    else if (KINDS[chosen].first) put(model, "size", KINDS[chosen].first(net ? usable(model.get("text")).length + 1 : 3));
    put(model, "kind", chosen);
  } }, ...Object.entries(KINDS).map(([value, { name }]) => option(value, name)), option("own", "your own rule"));
  const size = html("input", { type: "range", min: 1, step: 1, oninput: () => put(model, "size", size.valueAsNumber) });
  const sizeName = html("span");
  const sizeField = html("label", {}, sizeName, size);
  const line = (attributes) => html("input", { type: "text", class: "mono", spellcheck: "false", autocomplete: "off", autocapitalize: "off", ...attributes });
  const rule = line({ maxlength: LONGEST_RULE, oninput: () => {
    const typed = rule.value;
    put(model, "rule", typed);
    put(model, "kind", "own");
  } });
  const text = line({ oninput: () => put(model, "text", text.value) });
  const select = (name, first, n) => {
    const input = html("select", { onchange: () => put(model, name, Number(input.value)) },
      ...Array.from({ length: n }, (_, i) => option(first + i, String(first + i))));
    return input;
  };
  const [layer, head] = [select("layer", 1, net ? packed.layers : 1), select("head", 0, heads)];

  const figure = (name, title) => {
    const drawing = svg("svg", { role: "img" });
    const grid = html("div", { class: "scroll grid", tabindex: 0, role: "group", "aria-label": `${name}; the arrow keys move the selection`,
      onkeydown: keys, onpointermove: point, onclick: point }, drawing);
    const caption = html("p", { class: "note" }, title);
    return { drawing, caption, grid, part: html("div", { class: "part" }, caption, grid) };
  };
  const mask = figure("Mask", "Mask");
  const weights = figure("Attention weights", "");
  const note = html("output", { class: "note" });
  const answer = html("div", { class: "answer mono scroll", dir: "ltr", role: "group", "aria-label": "The right copy and what the model writes", tabindex: 0 });
  const python = html("code", { class: "mono" });
  const { question, sentence } = frame(el, "Mask explorer",
    [field("Mask", kind), sizeField, ...(net ? [field("Layer", layer)] : []), ...(heads > 1 ? [field("Head h", head)] : []),
      field("Rule: may q attend to k?", rule), field(net ? "String to copy" : "Text", text)],
    [html("div", { class: "pair masks" }, mask.part, ...(net ? [weights.part] : [])), note, ...(net ? [answer] : []),
      html("p", { class: "note" }, "In Python: ", python)]);
  question.textContent = net
    ? "Predict: how far back must each position be able to attend, at least, for the model to copy? Decide, then try a causal window."
    : "Predict: how many pairs remain with a causal window of 3? Decide, then choose it.";

  function move(q, k) {
    const last = shown.tokens.length - 1;
    const within = (at) => Math.min(Math.max(at, 0), last);
    [cursor.q, cursor.k] = [within(q), within(k)];
    for (const { drawing } of [mask, weights]) {
      drawing.querySelector(".mark")?.setAttribute("x", EDGE + cursor.k * CELL);
      drawing.querySelector(".mark")?.setAttribute("y", EDGE + cursor.q * CELL);
      for (const name of ["query", "key"])
        drawing.querySelectorAll(`.${name}`).forEach((node, at) => node.classList.toggle("chosen", at === cursor[name[0]]));
    }
    const name = (letter) => `${letter} = ${cursor[letter]} ‘${visible(shown.tokens[cursor[letter]])}’`;
    const may = shown.mask[cursor.q][cursor.k];
    const weight = shown.weights ? `, and does so with a weight of ${percent(shown.weights[cursor.q][cursor.k])}` : "";
    note.textContent = `${name("q")} may ${may ? `attend to ${name("k")}${weight}` : `not attend to ${name("k")}`}.`;
  }
  function keys(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!shown || !step || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    move(cursor.q + step[0], cursor.k + step[1]);
  }
  function point(event) {
    if (!shown) return;
    const drawing = event.currentTarget.firstElementChild;
    const box = drawing.getBoundingClientRect();
    const at = (offset) => Math.floor(((offset / box.width) * (EDGE + shown.tokens.length * CELL) - EDGE) / CELL);
    const [q, k] = [at(event.clientY - box.top), at(event.clientX - box.left)];
    if (shown.tokens[q] !== undefined && shown.tokens[k] !== undefined) move(q, k);
  }

  // Rows are queries, columns keys; `strength` is null where the mask forbids the pair.
  function draw({ drawing }, name, strength) {
    const { tokens } = shown;
    const side = EDGE + tokens.length * CELL + 1;
    const place = (i) => EDGE + i * CELL;
    const cells = tokens.flatMap((_, q) => tokens.map((_, k) => {
      const share = strength(q, k);
      return share === null
        ? svg("circle", { class: "forbidden", cx: place(k) + CELL / 2, cy: place(q) + CELL / 2, r: 1 })
        : svg("rect", { class: "cell", x: place(k) + 0.5, y: place(q) + 0.5, width: CELL - 1, height: CELL - 1, "fill-opacity": share.toFixed(3) });
    }));
    const names = tokens.flatMap((token, i) => [
      svg("text", { class: "query", x: EDGE / 2, y: place(i + 0.75) }, visible(token)),
      svg("text", { class: "key", x: place(i + 0.5), y: EDGE - 3.5 }, visible(token))]);
    drawing.setAttribute("viewBox", `0 0 ${side} ${side}`);
    drawing.setAttribute("aria-label", name);
    drawing.style.maxWidth = `${side * 2.4}px`;
    drawing.replaceChildren(...cells, ...names, svg("rect", { class: "mark", width: CELL, height: CELL }));
  }

  // One line of letters; where `wanted` is there, each after the `given` ones is marked as right or wrong.
  const letters = (name, ids, wanted = null, given = 0) => html("div", { class: "line" }, html("b", {}, name), ...ids.map((letter, i) => {
    const judged = wanted && i >= given;
    const right = judged && letter === wanted[i];
    const style = judged ? (right ? " merged" : " masked") : "";
    return html("span", { class: `chip${style}` }, visible(letter), ...(judged ? [html("span", {}, right ? "✓" : "✗")] : []));
  }));

  return follow(model, ["text", "kind", "size", "rule", "layer", "head"], () => {
    const typed = model.get("text");
    const string = usable(typed);
    const n = string.length;
    const T = net ? 2 * n : n;
    const named = KINDS[model.get("kind")];
    const [l, h] = [model.get("layer"), model.get("head")];
    const number = Math.min(model.get("size"), Math.max(T, 1));
    const written = named ? named.rule(number) : model.get("rule");
    kind.value = model.get("kind");
    sizeField.hidden = !named?.size;
    [size.max, size.value] = [Math.max(T, 1), number];
    size.setAttribute("aria-label", named?.size ?? "Size");
    sizeName.textContent = `${named?.size ?? "Size"}: ${number}`;
    if (!rule.matches(":focus")) rule.value = written;
    if (text.value !== typed) text.value = typed;
    [layer.value, head.value] = [l, h];

    let parsed, masks;
    rule.removeAttribute("aria-invalid");
    try {
      parsed = parse(written);
      masks = build(parsed.allows, heads, T);
    } catch (error) {
      rule.setAttribute("aria-invalid", true);
      sentence.textContent = `${error.message}${shown ? " The picture still shows the last valid rule." : ""}`;
      return;
    }
    if (!n) {
      sentence.textContent = net ? `The string is empty. Type letters from ‘${alphabet.join("")}’.` : "The text is empty. Type some.";
      return;
    }
    const word = string.map((letter) => alphabet.indexOf(letter));
    const given = Math.min(model.get("given"), n - 1);
    const result = net ? generate(net, heads, [...word, alphabet.length, ...word.slice(0, given)], n - given, parsed.allows) : null;
    const copy = [...string.slice(0, given), ...(result?.written.map((id) => alphabet[id] ?? SEPARATOR) ?? [])];
    const tokens = net ? [...string, SEPARATOR, ...copy].slice(0, T) : string;
    const followed = shown?.tokens.length === T;
    shown = { tokens, mask: masks[h], weights: result?.weights[l - 1][h] };
    draw(mask, "Mask: one row per query, one column per key; a square where the query may attend to the key, a dot where it may not",
      (q, k) => (shown.mask[q][k] ? 1 : null));
    if (net) {
      weights.caption.textContent = `Weights of layer ${l}, head ${h}`;
      draw(weights, "Attention weights: one row per query, one column per key; a darker square is a larger weight, a dot is a masked pair",
        (q, k) => (shown.mask[q][k] ? shown.weights[q][k] : null));
      answer.replaceChildren(letters("copy", string), letters("model", copy, string, given));
    }
    if (!followed) [cursor.q, cursor.k] = [T - 1, net ? n - 1 : 0]; // the last letter, and where it stands
    move(cursor.q, cursor.k);
    python.textContent = `Mask(lambda b, h, q, k: ${parsed.text})`;
    const same = masks.every((other) => other.flat().join() === shown.mask.flat().join());
    sentence.textContent = describe({ said: named?.said(number) ?? "Your rule", remain: count(shown.mask), T,
      where: same ? "" : ` in head ${h}`, wanted: net ? string.slice(given).join("") : "", written: copy.slice(given).join("") }) +
      (typed === string.join("") ? "" : net ? ` Only letters from ‘${alphabet.join("")}’ are used, at most ${longest}.` : ` Only the first ${longest} characters are used.`);
  });
}

export default { render };
