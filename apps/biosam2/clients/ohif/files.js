// The two files that travel: the server's answer (NRRD) and the label that is submitted (NIfTI).

const NIFTI_HEADER = 352; // bytes, with the four that say there are no extensions
const UINT8 = 2; // NIfTI's code
const SCANNER = 1; // NIfTI's code for coordinates of the scanner
const MILLIMETRES = 2;

// The voxels of a uint8 NRRD, i fastest, and its size.
export async function readNrrd(buffer) {
  const bytes = new Uint8Array(buffer);
  const end = emptyLine(bytes);
  const head = new TextDecoder("latin1").decode(bytes.subarray(0, end));
  const fields = new Map(head.split(/\r?\n/).filter((line) => line.includes(": ")).map((line) => line.split(": ", 2)));
  const shape = (fields.get("sizes") ?? "").split(" ").map(Number);
  if (!/^(unsigned char|uint8|uchar|uint8_t)$/.test(fields.get("type") ?? "")) {
    throw new Error(`the answer has voxels of type ${fields.get("type")}, not uint8`);
  }
  const data = bytes.subarray(end);
  const voxels = /^gz/.test(fields.get("encoding") ?? "") ? await through(new DecompressionStream("gzip"), data) : data;
  if (shape.length !== 3 || voxels.length !== shape[0] * shape[1] * shape[2]) {
    throw new Error(`the answer has ${voxels.length} voxels, its header says ${shape.join(" x ")}`);
  }
  return { shape, voxels };
}

// A label map (uint8, i fastest) on a `Grid` as a .nii.gz file.
export async function writeNifti(voxels, grid) {
  const bytes = new Uint8Array(NIFTI_HEADER + voxels.length);
  const header = new DataView(bytes.buffer);
  const put = (offset, kind, values) => {
    const width = { Int16: 2, Float32: 4, Int32: 4 }[kind];
    values.forEach((value, n) => header[`set${kind}`](offset + n * width, value, true));
  };
  const spacing = grid.steps.map((step) => Math.hypot(...step));
  put(0, "Int32", [348]);
  put(40, "Int16", [3, ...grid.shape, 1, 1, 1, 1]);
  put(70, "Int16", [UINT8, 8]);
  put(76, "Float32", [1, ...spacing]);
  put(108, "Float32", [NIFTI_HEADER, 1]);
  bytes[123] = MILLIMETRES;
  put(254, "Int16", [SCANNER]);
  // NIfTI's world is RAS: the first two of LPS turn their sign.
  [0, 1, 2].forEach((row) => put(280 + 16 * row, "Float32", grid.toWorld[row].map((x) => (row < 2 ? -x : x))));
  bytes.set(new TextEncoder().encode("n+1\0"), 344);
  bytes.set(voxels, NIFTI_HEADER);
  return new File([await through(new CompressionStream("gzip"), bytes)], "label.nii.gz");
}

function emptyLine(bytes) {
  for (let n = 1; n < bytes.length; n++) {
    if (bytes[n] !== 10) continue;
    if (bytes[n - 1] === 10 || (bytes[n - 1] === 13 && bytes[n - 2] === 10)) return n + 1;
  }
  throw new Error("the answer is not an NRRD file");
}

async function through(transform, bytes) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(transform)).arrayBuffer());
}
