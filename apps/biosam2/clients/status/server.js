// Every call to the server: who asks, and what went wrong in plain words.
// Without access control nobody signs in. With it, MONAI Label's own /auth/token hands out a token, which is
// kept until the tab is closed.

const KEPT = "biosam2-token";
const PATIENCE_MS = 20000;

// What a person can be told.
export class Failure extends Error {
  constructor(sentence, status = 0) {
    super(sentence);
    this.status = status;
  }
}

export class Server {
  #token = sessionStorage.getItem(KEPT) ?? "";

  get signedIn() {
    return this.#token !== "";
  }

  async signIn(name, password) {
    const body = new URLSearchParams({ username: name, password, grant_type: "password" });
    let answer;
    try {
      answer = await (await this.#send("../auth/token", { method: "POST", body })).json();
    } catch (failure) {
      if (failure.status >= 400) throw new Failure("That name and password were not accepted.", failure.status);
      throw failure;
    }
    this.#keep(answer.access_token ?? "");
  }

  signOut() {
    this.#keep("");
  }

  async status() {
    return (await this.#send("status")).json();
  }

  async picture(number, name) {
    return (await this.#send(`versions/${number}/pictures/${encodeURIComponent(name)}`)).blob();
  }

  async serve(number) {
    await this.#send(`versions/${number}/serve`, { method: "POST" });
  }

  // MONAI Label's own routes
  async train() {
    const headers = { "Content-Type": "application/json" };
    await this.#send("../train/biosam2", { method: "POST", headers, body: "{}" });
  }

  // Whether there was a training to cancel.
  async cancel() {
    return (await (await this.#send("../train/", { method: "DELETE" })).json()) !== null;
  }

  #keep(token) {
    this.#token = token;
    if (token) sessionStorage.setItem(KEPT, token);
    else sessionStorage.removeItem(KEPT);
  }

  async #send(path, options = {}) {
    const headers = { ...options.headers };
    if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers, signal: AbortSignal.timeout(PATIENCE_MS) });
    } catch {
      throw new Failure("The server does not answer. Is it still running?");
    }
    if (response.ok) return response;
    throw new Failure(await sentence(response), response.status);
  }
}

async function sentence(response) {
  const text = await response.text().catch(() => "");
  if (response.status === 429) return "A training is running already.";
  let detail = "";
  try {
    ({ detail } = JSON.parse(text));
  } catch {
    // not one of our errors: a proxy's page, or nothing
  }
  if (typeof detail === "string" && detail) return detail;
  if (response.status === 401 || response.status === 403) return "You are not allowed to do this.";
  return `The server answered with error ${response.status}. Its log says why.`;
}
