// Bytes that a page holds as text.

// Base 85 with the alphabet of RFC 1924: five characters for four bytes, a shorter end for what remains.
export function fromBase85(text) {
  const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
  const digit = new Uint8Array(128);
  [...alphabet].forEach((letter, i) => (digit[letter.charCodeAt(0)] = i));
  const missing = (5 - (text.length % 5)) % 5;
  const whole = text + "~".repeat(missing);
  const view = new DataView(new ArrayBuffer((whole.length / 5) * 4));
  for (let i = 0, at = 0; i < whole.length; i += 5, at += 4) {
    let number = 0;
    for (let j = i; j < i + 5; j++) number = 85 * number + digit[whole.charCodeAt(j)];
    view.setUint32(at, number);
  }
  return new Uint8Array(view.buffer, 0, view.byteLength - missing);
}

// What the page (text) or the kernel (bytes) sent, uncompressed.
export async function inflate(data) {
  const packed = typeof data === "string" ? fromBase85(data) : asBytes(data);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
