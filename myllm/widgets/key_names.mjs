// What published files call the parts of a Transformer, and the shapes that these have in ours.

// The parts of a layer: from our names to those that have `theirs` before them.
const within = (theirs, names) =>
  Object.fromEntries(Object.entries(names).map(([part, name]) => [`layers.N.${part}`, `${theirs}.${name}`]));
const same = (...parts) => Object.fromEntries(parts.map((part) => [part, part]));

const LLAMA = {
  "embed_tokens": "model.embed_tokens",
  ...within("model.layers.N", same("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")),
  "norm": "model.norm",
  "lm_head": "lm_head",
};
// N is the number of a layer. Parts of ours with one name are one matrix in the file.
export const NAMES = {
  gpt2: {
    "embed_tokens": "transformer.wte",
    "embed_positions": "transformer.wpe",
    ...within("transformer.h.N", {
      "input_layernorm": "ln_1",
      "self_attn.q_proj": "attn.c_attn",
      "self_attn.k_proj": "attn.c_attn",
      "self_attn.v_proj": "attn.c_attn",
      "self_attn.o_proj": "attn.c_proj",
      "post_attention_layernorm": "ln_2",
      "mlp.up_proj": "mlp.c_fc",
      "mlp.down_proj": "mlp.c_proj",
    }),
    "norm": "transformer.ln_f",
    "lm_head": "lm_head",
  },
  llama: LLAMA,
  qwen3: { ...LLAMA, ...within("model.layers.N", same("self_attn.q_norm", "self_attn.k_norm")) },
  gemma: LLAMA,
  gemma2: {
    ...LLAMA,
    ...within("model.layers.N", {
      "attention_output_norm": "post_attention_layernorm",
      "post_attention_layernorm": "pre_feedforward_layernorm",
      "mlp_output_norm": "post_feedforward_layernorm",
    }),
  },
  phi: {
    ...LLAMA,
    ...within("model.layers.N", {
      "self_attn.q_norm": "self_attn.q_layernorm",
      "self_attn.k_norm": "self_attn.k_layernorm",
      "self_attn.o_proj": "self_attn.dense",
      "mlp.up_proj": "mlp.fc1",
      "mlp.down_proj": "mlp.fc2",
    }),
    "norm": "model.final_layernorm",
  },
  phi3: {
    ...LLAMA,
    ...within("model.layers.N", {
      "self_attn.q_proj": "self_attn.qkv_proj",
      "self_attn.k_proj": "self_attn.qkv_proj",
      "self_attn.v_proj": "self_attn.qkv_proj",
      "mlp.gate_proj": "mlp.gate_up_proj",
      "mlp.up_proj": "mlp.gate_up_proj",
    }),
  },
  gguf: {
    "embed_tokens": "token_embd",
    ...within("blk.N", {
      "input_layernorm": "attn_norm",
      "self_attn.q_proj": "attn_q",
      "self_attn.k_proj": "attn_k",
      "self_attn.v_proj": "attn_v",
      "self_attn.o_proj": "attn_output",
      "post_attention_layernorm": "ffn_norm",
      "mlp.gate_proj": "ffn_gate",
      "mlp.up_proj": "ffn_up",
      "mlp.down_proj": "ffn_down",
    }),
    "norm": "output_norm",
    "lm_head": "output",
  },
};

// One published model of each family; P is the length of the table of positions, 0 where there is none.
const published = (name, preset, n_layer, [V, P], [H, K, D], [C, I], has = {}) => ({ name, preset, n_layer, V, P, H, K, D, C, I, ...has });
export const MODELS = {
  gpt2: published("GPT-2", "gpt2", 12, [50257, 1024], [12, 12, 64], [768, 3072], { bias: true, tied: true }),
  llama: published("LLaMA, Mistral, Qwen2", "llama-3-8b", 32, [128256, 0], [32, 8, 128], [4096, 14336], { gated: true }),
  qwen3: published("Qwen3", "qwen3-0.6b", 28, [151936, 0], [16, 8, 128], [1024, 3072], { gated: true, headNorms: true, tied: true }),
  gemma: published("Gemma", "gemma-2b", 18, [256000, 0], [8, 1, 256], [2048, 16384], { gated: true, tied: true }),
  gemma2: published("Gemma-2", "gemma-2-2b", 26, [256000, 0], [8, 4, 256], [2304, 9216], { gated: true, outputNorms: true, tied: true }),
  phi: published("Phi-2", "phi-2", 32, [51200, 0], [32, 32, 80], [2560, 10240], { bias: true, headBias: true, parallel: true }),
  phi3: published("Phi-3", "phi-3-mini", 32, [32064, 0], [32, 32, 96], [3072, 8192], { gated: true }),
  gguf: published("GGUF (llama)", "smollm2-135m", 30, [49152, 0], [9, 3, 64], [576, 1536], { gated: true, tied: true }),
};

// Our parts in the order of the computation, each with the shapes of its tensors: those of `Transformer.state_dict`.
export function ours({ V, P, H, K, D, C, I, bias, headBias, gated, parallel, headNorms, outputNorms }) {
  const linear = (rows, columns, bias) => ({ weight: [rows, columns], ...(bias && { bias: [rows] }) });
  const norm = (width) => ({ weight: [width], ...(bias && { bias: [width] }) });
  return Object.fromEntries([
    ["embed_tokens", linear(V, C)],
    P && ["embed_positions", linear(P, C)],
    ["layers.N.input_layernorm", norm(C)],
    ["layers.N.self_attn.q_proj", linear(H * D, C, bias)],
    ["layers.N.self_attn.k_proj", linear(K * D, C, bias)],
    ["layers.N.self_attn.v_proj", linear(K * D, C, bias)],
    headNorms && ["layers.N.self_attn.q_norm", norm(D)],
    headNorms && ["layers.N.self_attn.k_norm", norm(D)],
    ["layers.N.self_attn.o_proj", linear(C, H * D, bias)],
    outputNorms && ["layers.N.attention_output_norm", norm(C)],
    !parallel && ["layers.N.post_attention_layernorm", norm(C)],
    gated && ["layers.N.mlp.gate_proj", linear(I, C, bias)],
    ["layers.N.mlp.up_proj", linear(I, C, bias)],
    ["layers.N.mlp.down_proj", linear(C, I, bias)],
    outputNorms && ["layers.N.mlp_output_norm", norm(C)],
    ["norm", norm(C)],
    ["lm_head", linear(V, C, headBias)],
  ].filter(Boolean));
}
