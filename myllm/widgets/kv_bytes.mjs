// The cache of keys and values against the weights: pure functions first, then the picture.

export const FORMATS = { float32: 4, bfloat16: 2, int8: 1 }; // bytes a number

// The positions that a layer keeps: all, or those that the window still sees.
export const kept = (config, T) => (config.window ? Math.min(T, config.window) : T);

// Bytes of the keys and values of B texts of T tokens.
export const kvBytes = (config, B, T, each) =>
  2 * B * kept(config, T) * config.n_layer * config.n_kv_head * config.head_dim * each;

// Bytes that one step of generation reads for B texts: of the weights all but the tables where a row is looked up, and the cache.
export function bytesRead(config, B, T, each) {
  const { embedding, positions } = parameters(config);
  const lookedUp = positions + (config.tie_embeddings ? 0 : embedding);
  return { weights: each * (total(config) - lookedUp), cache: kvBytes(config, B, T, each) };
}

// The same model with a head of keys for each query head, for each group of them, and for all.
export function sharings({ n_head: H, n_kv_head: K }) {
  const group = K > 1 && K < H ? K : divisors(H).findLast((d) => d <= Math.max(2, H / 4));
  return [["MHA", H], ["GQA", group], ["MQA", 1]];
}

const times = (x) => Number(x.toPrecision(2)).toLocaleString("en", { maximumSignificantDigits: 2 });

// What is to be seen, in words.
export function describe(config, B, T, each) {
  const cache = kvBytes(config, B, T, each);
  const weights = total(config) * each;
  const read = bytesRead(config, B, T, each);
  const step = (read.weights + read.cache) / B;
  const last = kept(config, T) < T ? `; a window keeps the last ${kept(config, T).toLocaleString("en")} tokens` : "";
  const more = config.block_size < T ? ` The model was trained for ${config.block_size.toLocaleString("en")} tokens.` : "";
  return `The keys and values of ${many(B, "text")} of ${many(T, "token")} take ${inBytes(cache)}, ` +
    `${times(cache / weights)} times as much as the weights (${inBytes(weights)})${last}. ` +
    `Each generated token reads ${inBytes(step)}, ${percent(read.cache / (read.weights + read.cache))} of it keys and values.${more}`;
}

const CONTEXTS = powers(128, 131072);
const BATCHES = [...Array.from({ length: 16 }, (_, i) => i + 1), 24, ...powers(32, 256)];
const MODELS = ["gpt2", "llama-2-7b", "llama-2-70b", "llama-3-8b", "mistral-7b", "smollm2-135m"];

function render({ model, el }) {
  const config = () => ({ ...PRESETS[model.get("model")], ...model.get("shape") });
  const reshape = (changes) => put(model, "shape", { ...model.get("shape"), ...changes });
  const change = (name) => (value) => put(model, name, value);

  const preset = select("Model", [["", "Your own"], ...MODELS.map((key) => [key, PRESETS[key].name])], (key) => {
    model.set("model", key);
    put(model, "shape", {});
  });
  const heads = slider("Key-value heads", (n_kv_head) => reshape({ n_kv_head }));
  const context = slider("Tokens per text", change("context"));
  const batch = slider("Texts at once", change("batch"));
  const format = select("Numbers", [["float32", "float32: 4 bytes"], ["bfloat16", "bfloat16, float16: 2 bytes"], ["int8", "int8: 1 byte"]],
    change("dtype"));
  const window = slider("Window", (size) => reshape({ window: size }), (size) => size ? `${size.toLocaleString("en")} tokens` : "none");
  const layers = slider("Layers", (n_layer) => reshape({ n_layer }));
  const queries = slider("Query heads", (n_head) =>
    reshape({ n_head, n_kv_head: divisors(n_head).findLast((d) => d <= config().n_kv_head) }));
  const dim = slider("Head dimension", (head_dim) => reshape({ head_dim }));
  const rest = html("details", {}, html("summary", {}, "More of the model"),
    dials(layers, queries, dim));

  const list = html("ul", { class: "bars spans", "aria-label": "Bytes of weights and caches" });
  const key = (role, what) => html("span", {}, html("span", { class: `swatch ${role}` }), ` ${what}`);
  const note = html("p", { class: "note keys" }, key("weights", "weights"), key("key", "keys"), key("value", "values"));
  const { question, sentence } = frame(el, "KV bytes",
    [preset.label, format.label, dials(context, batch, heads, window), rest], [note, list]);
  question.textContent =
    "Predict: with how many texts at once do keys and values take more memory than the model? Decide, then move ‘Texts at once’.";

  return follow(model, ["model", "shape", "context", "batch", "dtype"], () => {
    const now = config();
    const [T, B, each] = [model.get("context"), model.get("batch"), FORMATS[model.get("dtype")]];
    preset.show(Object.keys(model.get("shape")).length ? "" : model.get("model"));
    heads.show(now.n_kv_head, divisors(now.n_head));
    context.show(T, steps(CONTEXTS, T));
    batch.show(B, steps(BATCHES, B));
    format.show(model.get("dtype"));
    window.show(now.window, [...steps(powers(256, 32768), now.window || 256), 0]);
    layers.show(now.n_layer, steps(Array.from({ length: 100 }, (_, i) => i + 1), now.n_layer));
    queries.show(now.n_head, steps(Array.from({ length: 128 }, (_, i) => i + 1), now.n_head));
    dim.show(now.head_dim, steps([16, 32, 64, 80, 96, 128, 192, 256], now.head_dim));

    const read = bytesRead(now, B, T, each);
    const rows = [
      ["Weights", { weights: total(now) * each }],
      ...sharings(now).map(([kind, K]) => {
        const half = kvBytes({ ...now, n_kv_head: K }, B, T, each) / 2;
        return [`Cache, ${kind}: ${many(K, "head")}`, { key: half, value: half }, K === now.n_kv_head];
      }),
      ["Read for each generated token", { weights: read.weights / B, key: read.cache / 2 / B, value: read.cache / 2 / B }],
    ];
    const sum = (spans) => Object.values(spans).reduce((a, b) => a + b);
    const most = Math.max(...rows.map(([, spans]) => sum(spans)));
    list.replaceChildren(...rows.map(([name, spans, chosen]) =>
      html("li", { "aria-current": chosen ? "true" : null },
        html("p", { class: "head" }, html("span", {}, name), html("b", {}, inBytes(sum(spans)))),
        html("div", { class: "track" }, ...Object.entries(spans).map(([role, size]) =>
          html("div", { class: `bar ${role}`, style: `width: ${(100 * size) / most}%` }))))));
    sentence.textContent = describe(now, B, T, each);
  });
}

export default { render };
