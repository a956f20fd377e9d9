// What `vggnet.Preprocess.pixels` does with a picture: resize the shorter side as Pillow does, and crop the center.
//
// The arithmetic is that of Pillow 13 for 8-bit channels, so that the pixels are the same: weights in 64-bit floats,
// rounded to whole multiples of 2^-22; a pass over each direction, rounded to 8 bits. Passes over rows come first, unless
// the height shrinks by more than twice as many pixels as the width (since Pillow 13).

const BITS = 22;
const HALF = 1 << (BITS - 1);
const STRIP = 1 << 20; // pixels that are read at once: canvases of whole photos are too large for some phones
const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: cubic },
};

function cubic(x) {
  const distance = Math.abs(x);
  if (distance < 1) return (1.5 * distance - 2.5) * distance * distance + 1;
  if (distance < 2) return (((distance - 5) * distance + 8) * distance - 4) * -0.5;
  return 0;
}

// For `crop` pixels from `first` on of a side that is resized from `from` to `to` pixels: the first pixel that each is
// made of, and the weights of this one and those that follow.
function taps(from, to, first, crop, { support, weight }) {
  const scale = from / to;
  const stretch = Math.max(1, scale);
  const found = [];
  for (let place = first; place < first + crop; place++) {
    const center = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support * stretch + 0.5));
    const end = Math.min(from, Math.trunc(center + support * stretch + 0.5));
    const weights = [];
    let total = 0;
    for (let i = start; i < end; i++) {
      weights.push(weight((i - center + 0.5) * (1 / stretch)));
      total += weights.at(-1);
    }
    found.push({ start, weights: weights.map((value) => fixed(total === 0 ? value : value / total)) });
  }
  return found;
}

function fixed(value) {
  return Math.trunc((value < 0 ? -0.5 : 0.5) + value * 2 ** BITS);
}

function rounded(sum) {
  return Math.min(255, Math.max(0, (sum + HALF) >> BITS));
}

// A pass over values whose neighbors are `step` places apart, from `place` on.
function sum(values, place, step, weights) {
  let total = 0;
  for (let i = 0; i < weights.length; i++) total += values[place + i * step] * weights[i];
  return rounded(total);
}

// Where the crop of a side begins; Python rounds halves to even numbers.
function cropStart(side, crop) {
  const half = (side - crop) / 2;
  return half % 1 === 0.5 ? 2 * Math.round(half / 2) : Math.round(half);
}

// Call `use` with each row of a picture from `first` to `end` and its values, `channels` for a pixel.
function eachRow(bitmap, first, end, channels, use) {
  const { width } = bitmap;
  const height = Math.max(1, Math.min(end - first, Math.floor(STRIP / width)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const row = new Uint8Array(width * channels);
  context.fillStyle = "white"; // below what is transparent
  for (let top = first; top < end; top += height) {
    context.fillRect(0, 0, width, height);
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, width, height);
    for (let y = top; y < Math.min(end, top + height); y++) {
      for (let x = 0, from = 4 * (y - top) * width; x < width; x++, from += 4) {
        if (channels === 1) {
          row[x] = (data[from] * 19595 + data[from + 1] * 38470 + data[from + 2] * 7471 + 32768) >> 16; // Pillow's mode L
        } else {
          for (let c = 0; c < channels; c++) row[channels * x + c] = data[from + c];
        }
      }
      use(y, row);
    }
  }
}

// The row `values`, of which each pixel of `columns` is made.
function narrowed(values, place, channels, columns, target, at) {
  for (const { start, weights } of columns) {
    for (let c = 0; c < channels; c++) target[at++] = sum(values, place + start * channels + c, channels, weights);
  }
}

function rowsFirst(bitmap, channels, columns, rows) {
  const first = rows[0].start;
  const end = rows.at(-1).start + rows.at(-1).weights.length;
  const line = columns.length * channels;
  const narrow = new Uint8Array((end - first) * line);
  eachRow(bitmap, first, end, channels, (y, values) => {
    narrowed(values, 0, channels, columns, narrow, (y - first) * line);
  });
  const pixels = new Uint8Array(rows.length * line);
  let place = 0;
  for (const { start, weights } of rows) {
    for (let i = 0; i < line; i++) pixels[place++] = sum(narrow, (start - first) * line + i, line, weights);
  }
  return pixels;
}

function columnsFirst(bitmap, channels, columns, rows) {
  const end = rows.at(-1).start + rows.at(-1).weights.length;
  const wide = bitmap.width * channels;
  const sums = new Int32Array(rows.length * wide);
  eachRow(bitmap, rows[0].start, end, channels, (y, values) => {
    for (const [place, { start, weights }] of rows.entries()) {
      if (y < start || y >= start + weights.length) continue;
      for (let i = 0; i < wide; i++) sums[place * wide + i] += values[i] * weights[y - start];
    }
  });
  const short = Uint8Array.from(sums, rounded);
  const pixels = new Uint8Array(rows.length * columns.length * channels);
  for (const place of rows.keys()) {
    narrowed(short, place * wide, channels, columns, pixels, place * columns.length * channels);
  }
  return pixels;
}

// ImageBitmap, upright -> Uint8Array of crop x crop pixels with `channels` values each.
export function pixelsOf(bitmap, { resize, crop, stretch, interpolation, channels }) {
  const sides = [bitmap.width, bitmap.height];
  const short = Math.min(...sides);
  const resized = sides.map((side) => (stretch || side === short ? resize : Math.trunc((resize * side) / short)));
  const [columns, rows] = sides.map((side, i) =>
    taps(side, resized[i], cropStart(resized[i], crop), crop, FILTERS[interpolation]));
  const [narrower, lower] = sides.map((side, i) => side - resized[i]);
  const pass = lower > Math.max(0, 2 * narrower) ? columnsFirst : rowsFirst;
  return pass(bitmap, channels, columns, rows);
}
