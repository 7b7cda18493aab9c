// Our tensors and those of published files: tables and pure functions first, then the picture.

const part = (module) => `layers.N.${module}`;
const llama = (module) => `model.layers.N.${module}`;
const gpt2 = (module) => `transformer.h.N.${module}`;
const blk = (module) => `blk.N.${module}`;

const LLAMA = {
  "embed_tokens": "model.embed_tokens",
  ...Object.fromEntries(["input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"].map((module) => [part(module), llama(module)])),
  "norm": "model.norm",
  "lm_head": "lm_head",
};
// What a family calls each part of ours; N is the number of a layer. Parts with one name are one matrix in the file.
export const NAMES = {
  gpt2: {
    "embed_tokens": "transformer.wte",
    "embed_positions": "transformer.wpe",
    [part("input_layernorm")]: gpt2("ln_1"),
    [part("self_attn.q_proj")]: gpt2("attn.c_attn"),
    [part("self_attn.k_proj")]: gpt2("attn.c_attn"),
    [part("self_attn.v_proj")]: gpt2("attn.c_attn"),
    [part("self_attn.o_proj")]: gpt2("attn.c_proj"),
    [part("post_attention_layernorm")]: gpt2("ln_2"),
    [part("mlp.up_proj")]: gpt2("mlp.c_fc"),
    [part("mlp.down_proj")]: gpt2("mlp.c_proj"),
    "norm": "transformer.ln_f",
    "lm_head": "lm_head",
  },
  llama: LLAMA,
  qwen3: {
    ...LLAMA,
    [part("self_attn.q_norm")]: llama("self_attn.q_norm"),
    [part("self_attn.k_norm")]: llama("self_attn.k_norm"),
  },
  gemma: LLAMA,
  gemma2: {
    ...LLAMA,
    [part("attention_output_norm")]: llama("post_attention_layernorm"),
    [part("post_attention_layernorm")]: llama("pre_feedforward_layernorm"),
    [part("mlp_output_norm")]: llama("post_feedforward_layernorm"),
  },
  phi: {
    ...LLAMA,
    [part("self_attn.q_norm")]: llama("self_attn.q_layernorm"),
    [part("self_attn.k_norm")]: llama("self_attn.k_layernorm"),
    [part("self_attn.o_proj")]: llama("self_attn.dense"),
    [part("mlp.up_proj")]: llama("mlp.fc1"),
    [part("mlp.down_proj")]: llama("mlp.fc2"),
    "norm": "model.final_layernorm",
  },
  phi3: {
    ...LLAMA,
    [part("self_attn.q_proj")]: llama("self_attn.qkv_proj"),
    [part("self_attn.k_proj")]: llama("self_attn.qkv_proj"),
    [part("self_attn.v_proj")]: llama("self_attn.qkv_proj"),
    [part("mlp.gate_proj")]: llama("mlp.gate_up_proj"),
    [part("mlp.up_proj")]: llama("mlp.gate_up_proj"),
  },
  gguf: {
    "embed_tokens": "token_embd",
    [part("input_layernorm")]: blk("attn_norm"),
    [part("self_attn.q_proj")]: blk("attn_q"),
    [part("self_attn.k_proj")]: blk("attn_k"),
    [part("self_attn.v_proj")]: blk("attn_v"),
    [part("self_attn.o_proj")]: blk("attn_output"),
    [part("post_attention_layernorm")]: blk("ffn_norm"),
    [part("mlp.gate_proj")]: blk("ffn_gate"),
    [part("mlp.up_proj")]: blk("ffn_up"),
    [part("mlp.down_proj")]: blk("ffn_down"),
    "norm": "output_norm",
    "lm_head": "output",
  },
};

// One published model of each family; P is the length of the table of positions, 0 where there is none.
const model = (name, preset, n_layer, [V, P], [H, K, D], [C, I], has = {}) => ({ name, preset, n_layer, V, P, H, K, D, C, I, ...has });
export const MODELS = {
  gpt2: model("GPT-2", "gpt2", 12, [50257, 1024], [12, 12, 64], [768, 3072], { bias: true, tied: true }),
  llama: model("LLaMA, Mistral, Qwen2", "llama-3-8b", 32, [128256, 0], [32, 8, 128], [4096, 14336], { gated: true }),
  qwen3: model("Qwen3", "qwen3-0.6b", 28, [151936, 0], [16, 8, 128], [1024, 3072], { gated: true, headNorms: true, tied: true }),
  gemma: model("Gemma", "gemma-2b", 18, [256000, 0], [8, 1, 256], [2048, 16384], { gated: true, tied: true }),
  gemma2: model("Gemma-2", "gemma-2-2b", 26, [256000, 0], [8, 4, 256], [2304, 9216], { gated: true, outputNorms: true, tied: true }),
  phi: model("Phi-2", "phi-2", 32, [51200, 0], [32, 32, 80], [2560, 10240], { bias: true, headBias: true, parallel: true }),
  phi3: model("Phi-3", "phi-3-mini", 32, [32064, 0], [32, 32, 96], [3072, 8192], { gated: true }),
  gguf: model("GGUF (llama)", "smollm2-135m", 30, [49152, 0], [9, 3, 64], [576, 1536], { gated: true, tied: true }),
};

// Our parts in the order of the computation, each with the shapes of its tensors: those of `Transformer.state_dict`.
export function ours({ V, P, H, K, D, C, I, bias, headBias, gated, parallel, headNorms, outputNorms }) {
  const linear = (rows, columns, bias) => ({ weight: [rows, columns], ...(bias && { bias: [rows] }) });
  const norm = (width) => ({ weight: [width], ...(bias && { bias: [width] }) });
  return Object.fromEntries([
    ["embed_tokens", linear(V, C)],
    P && ["embed_positions", linear(P, C)],
    [part("input_layernorm"), norm(C)],
    [part("self_attn.q_proj"), linear(H * D, C, bias)],
    [part("self_attn.k_proj"), linear(K * D, C, bias)],
    [part("self_attn.v_proj"), linear(K * D, C, bias)],
    headNorms && [part("self_attn.q_norm"), norm(D)],
    headNorms && [part("self_attn.k_norm"), norm(D)],
    [part("self_attn.o_proj"), linear(C, H * D, bias)],
    outputNorms && [part("attention_output_norm"), norm(C)],
    !parallel && [part("post_attention_layernorm"), norm(C)],
    gated && [part("mlp.gate_proj"), linear(I, C, bias)],
    [part("mlp.up_proj"), linear(I, C, bias)],
    [part("mlp.down_proj"), linear(C, I, bias)],
    outputNorms && [part("mlp_output_norm"), norm(C)],
    ["norm", norm(C)],
    ["lm_head", linear(V, C, headBias)],
  ].filter(Boolean));
}

// The lines of a family's map. Of each tensor: our shape, theirs as `whole`, whether it is transposed, and which of their
// rows (of their columns where it is transposed) are ours, `from` up to `to`. `group` are the parts with the same name;
// `heads` are those within which the rows are in another order.
export function lines(family, settings = MODELS[family]) {
  const table = NAMES[family];
  const parts = Object.entries(ours(settings));
  return parts.map(([part, leaves]) => {
    const theirs = table[part];
    const group = parts.filter(([other]) => table[other] === theirs);
    const at = group.findIndex(([other]) => other === part);
    const tensors = Object.entries(leaves).map(([leaf, shape]) => {
      const rows = (parts) => parts.reduce((sum, [, leaves]) => sum + leaves[leaf][0], 0);
      const whole = [rows(group), ...shape.slice(1)];
      const transposed = family === "gpt2" && leaf === "weight" && /\.c_\w+$/.test(theirs);
      const from = rows(group.slice(0, at));
      return { leaf, shape, whole: transposed ? whole.reverse() : whole, transposed, from, to: from + shape[0] };
    });
    const heads = family === "gguf" ? (part.endsWith("q_proj") && settings.H) || (part.endsWith("k_proj") && settings.K) || 0 : 0;
    return { part, theirs, group: group.map(([part]) => part), tensors, heads, tied: part === "lm_head" && !!settings.tied };
  });
}

// How many lines of the table are not LLaMA's.
export const differing = (lines) => lines.filter(({ part, theirs }) => LLAMA[part] !== theirs).length;

// How many tensors the file holds, and how many the Transformer has: those of a layer count once for each.
export function tensors(lines, { n_layer }) {
  const sum = (some) => some.reduce((n, { part, tensors }) => n + tensors.length * (part.startsWith("layers.") ? n_layer : 1), 0);
  return { file: sum(lines.filter(({ part, group, tied }) => !tied && part === group[0])), ours: sum(lines) };
}

const layer = (name, n = 0) => name.replace(".N.", `.${n}.`);
const shape = (numbers) => `(${numbers.join(", ")})`;
const NUMBERS = { 2: "two", 3: "three" };

// What happens on the way from the file to us.
export function marks({ part, theirs, group, tensors, heads, tied }) {
  if (tied) return ["tied and left out"];
  return [
    theirs === part ? "the same name" : theirs === `model.${part}` ? "only the prefix goes" : "renamed",
    group.length > 1 && `cut in ${NUMBERS[group.length]}`,
    tensors[0].transposed && "transposed",
    heads && "rows put back",
  ].filter(Boolean);
}

// The line in words; `known` are all lines of the family.
export function describe(line, known) {
  const { part, theirs, group, tensors: [first, bias], heads, tied } = line;
  const name = (tensor) => `${layer(part)}.${tensor.leaf} ${shape(tensor.shape)}`;
  if (tied) return `${name(first)} is no tensor of the file: it is tied to embed_tokens.weight, and left out.`;
  const piece = (tensor, what) => (group.length > 1 ? `${what} ${tensor.from} to ${tensor.to - 1} of ` : "") +
    `${layer(theirs)}.${tensor.leaf} ${shape(tensor.whole)}`;
  const done = marks(line);
  const steps = [done.slice(0, -1).join(", "), done.at(-1)].filter(Boolean).join(" and ");
  const order = heads ? ` In each of its ${heads} heads the file has first rows 0 and ${first.shape[0] / heads / 2}, then 1 and ${first.shape[0] / heads / 2 + 1}, and so on.` : "";
  const also = !bias ? "" : group.length > 1 ? ` Its bias ${shape(bias.shape)} is ${piece(bias, "numbers")}.` : ` Its bias ${shape(bias.shape)} goes with it.`;
  const taken = known.find((other) => other.part !== part && other.theirs === LLAMA[part]);
  const other = known.find((other) => other.part !== part && theirs === LLAMA[other.part]);
  const beware = (taken ? ` Beware: ${layer(taken.theirs)} is here our ${layer(taken.part)}.` : "") +
    (other ? ` Beware: in LLaMA this name is our ${layer(other.part)}.` : "");
  return `${name(first)} is ${piece(first, first.transposed ? "columns" : "rows")}: ${steps}.${order}${also}${beware}`;
}

const ROLES = { q_proj: "query", k_proj: "key", v_proj: "value" };
const last = (name) => name.split(".").at(-1);

function render({ model, el }) {
  const family = select("Family", Object.entries(MODELS).map(([key, { name }]) => [key, name]), (key) => put(model, "family", key));
  const title = html("b");
  const map = html("div", { class: "keymap", role: "group", "aria-label": "Our parts and what the file calls them" });
  const count = html("p", { class: "note" });
  const { question, sentence } = frame(el, "Key map", [family.label], [map, count]);
  question.textContent =
    "Predict: given LLaMA's table, which other family needs the fewest lines of its own, and which nothing but its own? Decide, then choose.";

  const spelled = (name) => layer(name).split(/(?<=\.|_(?=layernorm))/).flatMap((piece) => [piece, html("wbr")]);
  const entry = (name, tensors, key, ...rest) => [html("span", { class: "mono" }, ...spelled(name)),
    html("span", { class: "note" }, ...tensors.map((tensor) => html("span", {}, `${tensor.leaf} ${shape(tensor[key])}`)), ...rest)];
  let built, known, cells;
  const choose = (part) => put(model, "part", part);
  map.addEventListener("keydown", (event) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = known[known.findIndex(({ part }) => cells.get(part).button === event.target) + step];
    if (!next) return;
    choose(next.part);
    cells.get(next.part).button.focus();
  });

  function build(key) {
    known = lines(key);
    cells = new Map();
    title.textContent = `In the file of ${MODELS[key].preset}`;
    map.replaceChildren(html("b", {}, "Ours"), html("span"), title);
    for (const line of known) {
      const { part, theirs, group, tensors, tied } = line;
      const button = html("button", { type: "button", onclick: () => choose(part) }, ...entry(part, tensors, "shape"));
      map.append(button);
      if (part !== group[0]) {
        cells.set(part, { ...cells.get(group[0]), button, path: cells.get(group[0]).paths[group.indexOf(part)] });
        continue;
      }
      const paths = group.map((name, i) => svg("path", { class: ROLES[last(name)] ?? "plain", "stroke-dasharray": tied && "3 4",
        d: `M 0 ${i + 0.5} C 50 ${i + 0.5} 50 ${group.length / 2} 100 ${group.length / 2}` }));
      const rows = `grid-row: span ${group.length}`;
      const done = html("b", {}, marks(line).join(", "));
      const file = html("div", { class: tied ? "file tied" : "file", style: rows,
        onclick: () => choose(group[(group.indexOf(model.get("part")) + 1) % group.length]) },
        ...(tied ? [done] : entry(theirs, tensors, "whole", done)));
      map.append(svg("svg", { viewBox: `0 0 100 ${group.length}`, preserveAspectRatio: "none", "aria-hidden": "true", style: rows }, ...paths), file);
      cells.set(part, { button, file, paths, path: paths[0] });
    }
    const { file, ours } = tensors(known, MODELS[key]);
    count.textContent = `${differing(known)} of ${known.length} lines of the table differ from LLaMA's. ` +
      `Layer 0 stands for all ${MODELS[key].n_layer}: ${file} tensors in the file, ${ours} of ours.`;
  }

  return follow(model, ["family", "part"], () => {
    const [key, chosen] = [model.get("family"), model.get("part")];
    family.show(key);
    if (built !== key) build((built = key));
    const line = known.find(({ part }) => part === chosen);
    for (const { part, group } of known) {
      const { button, file, path } = cells.get(part);
      button.setAttribute("aria-pressed", part === chosen);
      path.classList.toggle("chosen", part === chosen);
      file.classList.toggle("chosen", group.includes(chosen));
    }
    sentence.textContent = line ? describe(line, known) : `${MODELS[key].preset} has no ${layer(chosen)}: choose another part.`;
  });
}

export default { render };
