// The parts of a GPT with their shapes, parameters and operations: pure functions first, then the picture.

// The whole settings: what follows from width and heads is derived, as in `ModelConfig`.
export const complete = (settings) => ({
  ...settings, n_kv_head: settings.n_head, head_dim: settings.n_embd / settings.n_head, intermediate_size: 4 * settings.n_embd,
});

// The parts in the order of the computation, for B texts of T tokens. Parameters and operations are those of one of its
// `times` copies, operations for each token; shapes are [what, numbers].
export function parts(config, B, T) {
  const { vocab_size: V, n_embd: C, n_head: H, head_dim: D, intermediate_size: I, n_layer, tie_embeddings } = config;
  const holds = parameters(config);
  const computes = flops(config, T);
  const stream = [B, T, C];
  const part = (key, name, rest) => ({ key, name, from: stream, inside: [], to: stream, formula: "", parameters: 0, flops: 0, times: 1, ...rest });
  const norm = { parameters: holds.norm, formula: "2·C" };
  const inLayer = (key, name, rest) => part(key, name, { ...rest, times: n_layer, layer: true });
  return [
    part("embedding", "Token embedding", { from: [B, T], parameters: holds.embedding, formula: "V·C" }),
    part("positions", "Position embedding, added", { inside: [["rows of the table", [T, C]]],
      parameters: holds.positions, formula: `${config.block_size.toLocaleString("en")}·C` }),
    inLayer("norm1", "LayerNorm", { ...norm, branch: true }),
    inLayer("attention", "Attention", { branch: true, parameters: holds.attention, flops: computes.attention,
      formula: "4·C² + 4·C", work: "8·C² + 4·T·C",
      inside: [["queries, keys, values, each", [B, H, T, D]], ["weights", [B, H, T, T]], ["means of values", [B, H, T, D]], ["joined heads", stream]] }),
    inLayer("add1", "Add to the stream", {}),
    inLayer("norm2", "LayerNorm", { ...norm, branch: true }),
    inLayer("mlp", "Feed-forward network", { branch: true, parameters: holds.mlp, flops: computes.mlp,
      formula: "8·C² + 5·C", work: "16·C²", inside: [["expanded, after GELU", [B, T, I]]] }),
    inLayer("add2", "Add to the stream", {}),
    part("norm", "Final LayerNorm", norm),
    part("head", "Head", { to: [B, T, V], parameters: holds.head, flops: computes.head,
      formula: tie_embeddings ? "" : "V·C", work: "2·V·C" }),
  ];
}

const shape = (numbers) => `(${numbers.join(", ")})`;
const number = (n) => n.toLocaleString("en");
const operations = (n) => brief(n, ["operations", "thousand operations", "million operations", "billion operations", "trillion operations"]);
const share = (part, config) => (part.times * part.parameters) / total(config);

// What the part does to its input, in words.
export function describe(part, config, T) {
  const copies = part.times > 1 ? ` in each of ${part.times} layers` : "";
  const tied = part.key === "head" && config.tie_embeddings ? " of its own: it is the embedding table" : "";
  const has = part.parameters ? `${number(part.parameters)} parameters${copies}, ${percent(share(part, config))} of all ${number(total(config))}`
    : `no parameters${tied}`;
  const work = part.flops ? ` For each token it computes ${operations(part.flops)}${copies}, ` +
    `${percent((part.times * part.flops) / flopsPerToken(config, T))} of all.` : "";
  return `${part.name}: ${shape(part.from)} becomes ${shape(part.to)}, with ${has}.${work}`;
}

const SIZES = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"];
const upTo = (n) => Array.from({ length: n }, (_, i) => i + 1);

function render({ model, el }) {
  const config = () => complete({ ...PRESETS[model.get("model")], ...model.get("settings") });
  const change = (changes) => put(model, "settings", { ...model.get("settings"), ...changes });
  const preset = select("Model", [["", "Your own"], ...SIZES.map((key) => [key, PRESETS[key].name])], (key) => {
    model.set("model", key);
    put(model, "settings", {});
  });
  const batch = slider("Texts B", (value) => put(model, "batch", value));
  const tokens = slider("Tokens T", (value) => put(model, "tokens", value));
  const width = slider("Width C", (n_embd) =>
    change({ n_embd, n_head: divisors(n_embd).findLast((d) => d <= config().n_head) }));
  const heads = slider("Heads H", (n_head) => change({ n_head }));
  const layers = slider("Layers", (n_layer) => change({ n_layer }));
  const vocabulary = slider("Vocabulary V", (vocab_size) => change({ vocab_size }));
  const tie = toggle("The head is the embedding table", (tie_embeddings) => change({ tie_embeddings }));

  const buttons = new Map(parts(config(), 1, 1).map(({ key, name, branch }) => {
    const button = html("button", { type: "button", class: branch ? "branch" : "trunk", onclick: () => put(model, "part", key) });
    return [key, { name, button }];
  }));
  const layerName = html("p", { class: "note" });
  const of = (...keys) => keys.map((key) => buttons.get(key).button);
  const stack = html("div", { class: "stack", role: "group", "aria-label": "Parts of the model, from ids to logits" },
    html("p", { class: "note" }, "ids"), ...of("embedding", "positions"),
    html("div", { class: "layer" }, layerName, ...of("norm1", "attention", "add1", "norm2", "mlp", "add2")),
    ...of("norm", "head"), html("p", { class: "note" }, "logits of the next token"));
  const facts = html("dl", { class: "facts" });
  const all = html("p", { class: "note" });

  const { question, sentence } = frame(el, "Block diagram",
    [preset.label, tie.label, dials(batch, tokens, width, heads, layers, vocabulary)],
    [html("div", { class: "pair" }, html("div", { class: "part" }, stack), html("div", { class: "part" }, facts, all))]);
  question.textContent =
    "Predict: which holds the most parameters: the embedding, all attention layers, or all feed-forward networks? Decide, then choose them.";

  return follow(model, ["model", "settings", "batch", "tokens", "part"], () => {
    const [now, B, T] = [config(), model.get("batch"), model.get("tokens")];
    preset.show(Object.keys(model.get("settings")).length ? "" : model.get("model"));
    batch.show(B, steps(powers(1, 64), B));
    tokens.show(T, steps([...powers(1, now.block_size), now.block_size], T));
    width.show(now.n_embd, steps([16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1600, 2048], now.n_embd));
    heads.show(now.n_head, divisors(now.n_embd).filter((d) => d <= 64 || d === now.n_head));
    layers.show(now.n_layer, steps(upTo(48), now.n_layer));
    vocabulary.show(now.vocab_size, steps([...powers(32, 32768), 50257, 128256], now.vocab_size));
    tie.show(now.tie_embeddings);

    const every = parts(now, B, T);
    layerName.textContent = `${many(now.n_layer, "layer")}, all identical in shape`;
    for (const part of every) {
      const { name, button } = buttons.get(part.key);
      button.setAttribute("aria-pressed", part.key === model.get("part"));
      button.replaceChildren(html("span", {}, name), html("span", { class: "mono" }, shape(part.to)),
        html("span", { class: "bar", style: `width: ${100 * share(part, now)}%` }));
    }
    const part = every.find(({ key }) => key === model.get("part"));
    const fact = (name, value) => html("div", {}, html("dt", {}, name), html("dd", {}, value));
    const sizes = [["in", part.from], ...part.inside, ["out", part.to]];
    const amount = (what, formula, n, whole) => [
      fact(formula ? `${what}, ${formula}` : what, number(n)),
      part.times > 1 && fact(`in ${part.times} layers`, number(n * part.times)),
      fact("of all", percent((n * part.times) / whole))].filter(Boolean);
    facts.replaceChildren(html("div", {}, html("dt", { class: "title" }, part.name), html("dd", {}, part.layer ? "in a layer" : "")),
      ...sizes.map(([what, numbers]) => fact(what, shape(numbers))),
      ...amount("parameters", part.formula, part.parameters, total(now)),
      ...amount("operations per token", part.work, part.flops, flopsPerToken(now, T)));
    all.textContent = `All parts: ${number(total(now))} parameters, ${operations(flopsPerToken(now, T))} per token, ` +
      `${operations(B * T * flopsPerToken(now, T))} for ${shape([B, T])} ids. Only matrix products are counted.`;
    sentence.textContent = describe(part, now, T);
  });
}

export default { render };
