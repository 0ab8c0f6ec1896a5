// Every call to the server, and what went wrong in plain words.

const POLL_MS = 150;

// What a person can be told; `cancelled` where they asked for it themselves.
export class Failure extends Error {
  constructor(sentence, { cancelled = false, status = 0 } = {}) {
    super(sentence);
    this.cancelled = cancelled;
    this.status = status;
  }
}

export class Server {
  // base: the server's address, "" where the page comes from. headers(): what a signed-in person sends.
  constructor(base = "", headers = () => ({})) {
    this.base = base;
    this.headers = headers;
  }

  info() {
    return this.#json("/info/");
  }

  // Where the voxels of an image are. The server fetches the image first, if it does not have it yet.
  grid(image) {
    return this.#json(`/biosam2/grid?${new URLSearchParams({ image })}`);
  }

  // Runs a model. Resolves with the bytes of the NRRD answer, and the index of each structure in it by name.
  // onProgress(done, total): as far as the server tells; total is 0 where it does not.
  async infer(model, image, params, { signal, onProgress } = {}) {
    const form = new FormData();
    const id = `ohif-${crypto.getRandomValues(new Uint32Array(2)).join("-")}`;
    const answer = { result_extension: ".nrrd", result_dtype: "uint8", result_compress: true, request_id: id };
    form.append("params", JSON.stringify({ ...params, ...answer }));
    const query = new URLSearchParams({ image });
    const watched = new AbortController();
    const gone = new AbortController();
    signal?.addEventListener("abort", () => this.#cancel(id).catch(() => gone.abort()), { once: true });
    if (onProgress) this.#watch(id, onProgress, watched.signal);
    try {
      const response = await this.#send(`/infer/${model}?${query}`, { method: "POST", body: form, signal: gone.signal });
      const parts = await response.formData();
      const { label_names: names } = JSON.parse(parts.get("params"));
      const bytes = await parts.get("image").arrayBuffer();
      if (signal?.aborted) throw new Failure("too late");
      return { bytes, names };
    } catch (failure) {
      if (signal?.aborted) throw new Failure("Cancelled. Nothing was changed.", { cancelled: true });
      throw failure;
    } finally {
      watched.abort();
    }
  }

  // Saves a label as final; an archive also gets it as DICOM SEG.
  async submit(image, file, structures) {
    const form = new FormData();
    form.append("label", file);
    form.append("params", JSON.stringify({ label_info: structures }));
    const query = new URLSearchParams({ image, tag: "final" });
    return (await this.#send(`/datastore/label?${query}`, { method: "PUT", body: form })).json();
  }

  // The image that a strategy chooses next; it is kept for this client for a while.
  async next(strategy, client) {
    const response = await this.#send(`/activelearning/${encodeURIComponent(strategy)}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ client_id: client }),
    });
    const { id, message } = await response.json();
    if (id === undefined) throw new Failure(message ?? "No case is left: all are labelled.");
    return id;
  }

  // Ends the work on the server; its answer to the inference then says so. Where that fails (the server may not
  // know of the work yet), the connection is closed instead, and that ends it too.
  async #cancel(id) {
    await this.#send(`/biosam2/work/${id}`, { method: "DELETE" });
  }

  async #watch(id, onProgress, signal) {
    onProgress(0, 0);
    while (!signal.aborted) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      try {
        const { done, total } = await this.#json(`/biosam2/work/${id}`);
        if (!signal.aborted && total) onProgress(done, total);
      } catch {
        // No progress to tell: the work has not begun, or this server does not say. The answer comes anyway.
      }
    }
  }

  async #json(path) {
    return (await this.#send(path)).json();
  }

  async #send(path, options = {}) {
    let response;
    try {
      response = await fetch(this.base + path, { ...options, headers: { ...this.headers(), ...options.headers } });
    } catch {
      throw new Failure("The server does not answer. Is it still running?");
    }
    if (response.ok) return response;
    throw new Failure(await sentence(response), { status: response.status, cancelled: response.status === 409 });
  }
}

async function sentence(response) {
  const text = await response.text().catch(() => "");
  let detail = "";
  try {
    ({ detail } = JSON.parse(text));
  } catch {
    // not one of our errors: a proxy's page, or nothing
  }
  if (typeof detail === "string" && detail) return detail;
  if (response.status === 401 || response.status === 403) return "You are not allowed to do this: sign in again.";
  if (response.status === 429 || response.status === 503) return "The server is busy. Try again in a moment.";
  return `The server answered with error ${response.status}. Its log says why.`;
}
