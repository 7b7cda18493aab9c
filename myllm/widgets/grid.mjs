// Affine grids, as in `quantize_affine` of the package: computed in float32, halves rounded to the even code.

export function roundHalfEven(x) {
  const up = Math.round(x); // of halves the upper
  return up - x === 0.5 && up % 2 ? up - 1 : up;
}

// The grid that spans numbers of least value `low` and greatest value `high`: its step, its codes, the code of 0.
export function gridOf(low, high, bits, symmetric) {
  const most = symmetric ? 2 ** (bits - 1) - 1 : 2 ** bits - 1;
  const span = symmetric ? Math.max(-low, high) : Math.fround(Math.max(high, 0) - Math.min(low, 0));
  const step = Math.fround(span / most) || 1;
  const zero = symmetric ? 0 : Math.max(0, Math.min(most, roundHalfEven(Math.fround(-Math.min(low, 0) / step))));
  return { step, zero, least: symmetric ? -most : 0, most };
}

export const codeOf = (x, { step, zero, least, most }) =>
  Math.max(least, Math.min(most, roundHalfEven(Math.fround(x / step)) + zero));

export const valueOf = (code, { step, zero }) => Math.fround((code - zero) * step);
