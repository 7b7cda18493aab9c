// A GPT-2 or a LLaMA-style model that runs in the page: its tokenizer, weights, forward pass and sampling.

const EPS = 1e-5; // of the norms, where a model does not say

// The bytes of every token: single bytes, then each merge.
export function tokenBytes({ first, pairs }) {
  const packed = atob(pairs);
  const bytes = Array.from({ length: first }, (_, byte) => [byte]);
  const word = (i) => packed.charCodeAt(i) + 256 * packed.charCodeAt(i + 1);
  for (let i = 0; i < packed.length; i += 4) bytes.push([...bytes[word(i)], ...bytes[word(i + 2)]]);
  return bytes;
}

// Text to ids, and a decoder of single ids: bytes wait there until they make a character. `special` are the special
// tokens, which have the last ids and stand for no text that is encoded.
export function tokenizer(merges, pattern = GPT2) {
  const encode = byteLevel({ bytes: [...Array(256).keys()], ...merges }, pattern);
  const bytes = [...tokenBytes(merges), ...(merges.special ?? []).map(toBytes)];
  const decoder = () => {
    const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    return (id) => utf8.decode(Uint8Array.from(bytes[id] ?? []), { stream: true });
  };
  return { bytes, encode: (text) => encode(text).map(({ id }) => id), decoder };
}

// Tensors by name as a model; its sizes follow from theirs. `form` holds the heads, the longest context, with rotary
// positions the base θ of their frequencies and, where it is another one, the ε of the norms.
export function network(tensors, layout, form) {
  const sizes = Object.fromEntries(layout.map(([name, ...size]) => [name, size]));
  const [queries, width] = sizes["layers.0.self_attn.q_proj.weight"];
  const layers = layout.filter(([name]) => name.endsWith(".mlp.up_proj.weight")).length;
  const dim = queries / form.heads;
  return { ...form, tensors, width, layers, dim, keyHeads: sizes["layers.0.self_attn.k_proj.weight"][0] / dim };
}

// The packed weights to a model: first all vectors and the scales of all rows, then the rows as int8.
export function unpack(packed, layout, form) {
  const numbers = layout.reduce((sum, [, rows]) => sum + rows, 0);
  const data = packed.slice().buffer; // a copy begins at an address that float32 can have
  const [floats, integers] = [new Float32Array(data, 0, numbers), new Int8Array(data, 4 * numbers)];
  const tensors = {};
  let [i, j] = [0, 0];
  for (const [name, rows, columns] of layout) {
    const scales = floats.subarray(i, (i += rows));
    const whole = integers.subarray(j, (j += rows * columns));
    tensors[name] = columns ? new Float32Array(whole) : scales;
    for (let row = 0, at = 0; columns && row < rows; row++)
      for (const end = at + columns; at < end; at++) tensors[name][at] *= scales[row];
  }
  return network(tensors, layout, form);
}

// Weights (rows, columns), a vector and, where there is one, a bias to a vector of the rows.
function linear(x, weight, bias) {
  const out = new Float64Array(weight.length / x.length);
  for (let row = 0, at = 0; row < out.length; row++) {
    let sum = bias ? bias[row] : 0;
    for (let i = 0; i < x.length; i++, at++) sum += weight[at] * x[i];
    out[row] = sum;
  }
  return out;
}

// LayerNorm, and without a bias RMSNorm.
function normalize(x, weight, bias, eps) {
  const mean = bias ? x.reduce((sum, number) => sum + number, 0) / x.length : 0;
  const square = x.reduce((sum, number) => sum + (number - mean) ** 2, 0) / x.length;
  return x.map((number, i) => ((number - mean) / Math.sqrt(square + eps)) * weight[i] + (bias ? bias[i] : 0));
}

const gelu = (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
const silu = (x) => x / (1 + Math.exp(-x));

// Rotates the pairs (i, i + dim / 2) of each head by the angles of a position, in place.
export function rotate(x, position, dim, theta) {
  const half = dim / 2;
  for (let i = 0; i < half; i++) {
    const angle = position * theta ** (-i / half);
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    for (let at = i; at < x.length; at += dim) [x[at], x[at + half]] = [x[at] * cos - x[at + half] * sin, x[at + half] * cos + x[at] * sin];
  }
  return x;
}

// Weights that sum to 1, in place of scores.
function softmax(scores) {
  const highest = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = scores.map((score) => Math.exp(score - highest));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

export const emptyCache = ({ layers }) => ({ ids: [], keys: Array.from({ length: layers }, () => []), values: Array.from({ length: layers }, () => []) });

// One head: a query with all cached keys and values. Its numbers begin at `from`, those of the keys and values at `shared`.
function attend(query, keys, values, from, shared, dim, out) {
  const scores = keys.map((key) => {
    let sum = 0;
    for (let i = 0; i < dim; i++) sum += query[from + i] * key[shared + i];
    return sum / Math.sqrt(dim);
  });
  softmax(scores).forEach((weight, at) => {
    for (let i = 0; i < dim; i++) out[from + i] += weight * values[at][shared + i];
  });
}

// Reads one token behind those in the cache; returns the logits of the token that follows.
export function step(net, cache, id) {
  const { tensors, width, heads, keyHeads, dim, theta, eps = EPS } = net;
  const apply = (part, x) => linear(x, tensors[`${part}.weight`], tensors[`${part}.bias`]);
  const norm = (part, x) => normalize(x, tensors[`${part}.weight`], tensors[`${part}.bias`], eps);
  const row = (name, at) => Float64Array.from(tensors[`${name}.weight`].subarray(at * width, (at + 1) * width));
  const position = cache.ids.length;
  let x = row("embed_tokens", id);
  const add = (y) => (x = x.map((number, i) => number + y[i]));
  const turn = (y) => (theta ? rotate(y, position, dim, theta) : y);
  if (!theta) add(row("embed_positions", position));
  cache.ids.push(id);
  for (let layer = 0; layer < net.layers; layer++) {
    const name = `layers.${layer}`;
    const y = norm(`${name}.input_layernorm`, x);
    const [query, key, value] = ["q", "k", "v"].map((letter) => apply(`${name}.self_attn.${letter}_proj`, y));
    cache.keys[layer].push(turn(key));
    cache.values[layer].push(value);
    turn(query);
    const mixed = new Float64Array(heads * dim);
    for (let h = 0; h < heads; h++)
      attend(query, cache.keys[layer], cache.values[layer], h * dim, Math.floor((h * keyHeads) / heads) * dim, dim, mixed);
    add(apply(`${name}.self_attn.o_proj`, mixed));
    const z = norm(`${name}.post_attention_layernorm`, x);
    const up = apply(`${name}.mlp.up_proj`, z);
    const gated = `${name}.mlp.gate_proj.weight` in tensors;
    const inner = gated ? apply(`${name}.mlp.gate_proj`, z).map((gate, i) => silu(gate) * up[i]) : up.map(gelu);
    add(apply(`${name}.mlp.down_proj`, inner));
  }
  return linear(norm("norm", x), tensors["lm_head.weight"] ?? tensors["embed_tokens.weight"]);
}

// The same for any number of tokens: when all positions are used, the newest half is read again from position 0.
export function read(net, cache, ids) {
  let logits;
  for (const id of ids) {
    if (cache.ids.length === net.context) {
      const kept = cache.ids.slice(-Math.floor(net.context / 2));
      Object.assign(cache, emptyCache(net));
      kept.forEach((old) => step(net, cache, old));
    }
    logits = step(net, cache, id);
  }
  return logits;
}

// Logits of n tokens to probabilities; a temperature of 0 leaves only the most likely one.
export function probabilities(logits, temperature) {
  if (temperature) return softmax(Array.from(logits, (logit) => logit / temperature));
  const best = logits.indexOf(Math.max(...logits));
  return Array.from(logits, (_, id) => Number(id === best));
}

export function choose(shares, random) {
  let rest = random();
  const found = shares.findIndex((share) => (rest -= share) < 0);
  return found >= 0 ? found : shares.findLastIndex((share) => share > 0); // rounding may leave a trace of `rest`
}

// `length` ids after those of the prompt; `text` is the number of ids that are text, all others are special tokens.
export function* write(net, cache, prompt, { text, temperature, seed, length }) {
  const random = generator(seed);
  let logits = read(net, cache, prompt);
  for (let n = 0; n < length; n++) {
    const id = choose(probabilities(logits.subarray(0, text), temperature()), random);
    logits = read(net, cache, [id]);
    yield { id, logits };
  }
}

// The ids of the highest shares, of equals the smaller one first.
export const likeliest = (shares, n) => [...shares.keys()].sort((a, b) => shares[b] - shares[a] || a - b).slice(0, n);

export const WEIGHTS = { key: "weights", folder: "weights", store: "myllmWeights" };

// What the page or the kernel sent, as bytes.
export const asBytes = (data) =>
  typeof data === "string" ? Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))
    : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
