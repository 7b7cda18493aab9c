// What a model of given settings holds and computes; the names of the settings are those of `ModelConfig`.

// `gpt2`: LayerNorm, biases, learned positions, a plain feed-forward network. `llama`: RMSNorm, no biases, RoPE, a gated one.
const gpt2 = (name, n_layer, n_head, n_embd) => ({
  name, family: "gpt2", vocab_size: 50257, block_size: 1024, n_layer, n_head, n_kv_head: n_head, head_dim: n_embd / n_head,
  n_embd, intermediate_size: 4 * n_embd, window: 0, tie_embeddings: true,
});
const llama = (name, n_layer, n_head, n_kv_head, n_embd, intermediate_size, vocab_size, block_size, rest = {}) => ({
  name, family: "llama", vocab_size, block_size, n_layer, n_head, n_kv_head, head_dim: n_embd / n_head,
  n_embd, intermediate_size, window: 0, tie_embeddings: false, ...rest,
});

// The settings as published; a window of 0 is none.
export const PRESETS = {
  "gpt2": gpt2("GPT-2 124M", 12, 12, 768),
  "gpt2-medium": gpt2("GPT-2 medium", 24, 16, 1024),
  "gpt2-large": gpt2("GPT-2 large", 36, 20, 1280),
  "gpt2-xl": gpt2("GPT-2 XL", 48, 25, 1600),
  "llama-2-7b": llama("LLaMA-2 7B", 32, 32, 32, 4096, 11008, 32000, 4096),
  "llama-2-70b": llama("LLaMA-2 70B", 80, 64, 8, 8192, 28672, 32000, 4096),
  "llama-3-8b": llama("LLaMA-3 8B", 32, 32, 8, 4096, 14336, 128256, 8192),
  "mistral-7b": llama("Mistral 7B", 32, 32, 8, 4096, 14336, 32000, 32768, { window: 4096 }),
  "smollm2-135m": llama("SmolLM2-135M", 30, 9, 3, 576, 1536, 49152, 8192, { tie_embeddings: true }),
};

// The parameters of each part; `norm`, `attention` and `mlp` are those of one layer, which has two norms.
export function parameters(config) {
  const { vocab_size: V, n_embd: C, n_head: H, n_kv_head: K, head_dim: D, intermediate_size: I } = config;
  const plain = config.family === "gpt2";
  return {
    embedding: V * C,
    positions: plain ? config.block_size * C : 0,
    norm: plain ? 2 * C : C,
    attention: 2 * C * H * D + 2 * C * K * D + (plain ? (H + 2 * K) * D + C : 0),
    mlp: plain ? 2 * C * I + I + C : 3 * C * I,
    head: config.tie_embeddings ? 0 : V * C,
  };
}

export function total(config) {
  const { embedding, positions, norm, attention, mlp, head } = parameters(config);
  return embedding + positions + config.n_layer * (attention + mlp + 2 * norm) + norm + head;
}

// Floating-point operations of products of matrices, for each of T tokens; `attention` and `mlp` of one layer.
export function flops(config, T) {
  const { vocab_size: V, n_embd: C, n_head: H, n_kv_head: K, head_dim: D, intermediate_size: I } = config;
  return {
    attention: 2 * (2 * C * H * D + 2 * C * K * D + 2 * T * H * D),
    mlp: 2 * (config.family === "gpt2" ? 2 : 3) * C * I,
    head: 2 * C * V,
  };
}

export function flopsPerToken(config, T) {
  const { attention, mlp, head } = flops(config, T);
  return config.n_layer * (attention + mlp) + head;
}

const divisors = (n) => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);
