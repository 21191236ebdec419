/* Talks to the server: JSON requests, answers as they are written, and where conversations are
 * kept. Knows nothing of the page. */

const KEY = "bitloom.key";
const CUT_OFF = "the connection broke off in the middle of the answer";

/** The API key, kept as long as the window. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

export class ServerError extends Error {
  constructor(status, message, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function errorOf(response) {
  let said;
  try {
    said = (await response.json()).error;
  } catch {
    /* no JSON: some proxy has answered */
  }
  const message = said?.message ?? `the server answered ${response.status} ${response.statusText}`;
  return new ServerError(response.status, message, said?.code);
}

async function send(method, path, body, options = {}) {
  const headers = {};
  if (apiKey.get()) headers.Authorization = `Bearer ${apiKey.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    const text = body === undefined ? undefined : JSON.stringify(body);
    /* What is stored should arrive although the page is being closed; browsers do that for 64 KiB. */
    const keepalive = method !== "GET" && !options.signal && text?.length < 15000;
    response = await fetch(path, { method, headers, body: text, keepalive, ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(0, "the server cannot be reached", "unreachable");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function sendJson(method, path, body, options) {
  return (await send(method, path, body, options)).json();
}

export async function listModels() {
  return (await sendJson("GET", "v1/models")).data ?? [];
}

/** The data of server-sent events, from pieces of bytes that may be cut anywhere. */
export async function* readEvents(pieces) {
  const decoder = new TextDecoder();
  let rest = "";
  let data = [];
  for await (const piece of pieces) {
    const lines = (rest + decoder.decode(piece, { stream: true })).split("\n");
    rest = lines.pop();
    for (const cut of lines) {
      const line = cut.endsWith("\r") ? cut.slice(0, -1) : cut;
      if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line === "" && data.length) {
        yield data.join("\n");
        data = [];
      }
    }
  }
}

async function* piecesOf(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new ServerError(0, CUT_OFF, "cut");
  } finally {
    reader.releaseLock();
  }
}

/** Asks for an answer; calls onText(text) for each piece. Gives {finish, usage, timings, energy}
 * with what the server has told, null for what it has not. */
export async function streamAnswer(request, signal, onText) {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const response = await send("POST", "v1/chat/completions", body, { signal });
  const end = { finish: null, usage: null, timings: null, energy: null };
  for await (const data of readEvents(piecesOf(response.body))) {
    if (data === "[DONE]") return end;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ServerError(500, chunk.error.message, chunk.error.code);
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) onText(choice.delta.content);
    end.finish = choice?.finish_reason ?? end.finish;
    end.usage = chunk.usage ?? end.usage;
    end.timings = chunk.timings ?? end.timings;
    end.energy = chunk.energy ?? chunk.usage?.energy ?? end.energy;
  }
  if (!end.finish) throw new ServerError(0, CUT_OFF, "cut");
  return end;
}

/* --- Where conversations are kept: both kinds have the same functions ------------------------ */

const BASE = "api/conversations";

/** In the server's database. */
export const serverStore = {
  isKept: true,
  list: ({ query = "", after = "" } = {}) => {
    const search = new URLSearchParams({ limit: "50" });
    if (query) search.set("query", query);
    if (after) search.set("after", after);
    return sendJson("GET", `${BASE}?${search}`);
  },
  create: (fields, messages) => sendJson("POST", BASE, { ...fields, messages }),
  read: (id) => sendJson("GET", `${BASE}/${id}`),
  edit: (id, fields) => sendJson("PATCH", `${BASE}/${id}`, fields),
  remove: (id) => sendJson("DELETE", `${BASE}/${id}`),
  write: (id, revision, from, messages) =>
    sendJson("PUT", `${BASE}/${id}/messages`, { revision, from, messages }),
};

/** In this page, until it is closed. */
export function memoryStore() {
  const kept = new Map();
  const touch = (conversation) => {
    conversation.updated_at = Date.now();
    conversation.revision++;
    conversation.message_count = conversation.messages.length;
    return structuredClone(conversation);
  };
  const find = (id) => {
    if (!kept.has(id)) throw new ServerError(404, "no such conversation", "not_found");
    return kept.get(id);
  };
  const has = (text, words) => text.toLowerCase().includes(words);
  return {
    isKept: false,
    async list({ query = "" } = {}) {
      const words = query.toLowerCase();
      const data = [...kept.values()]
        .filter((one) => has(one.title, words) || one.messages.some((m) => has(m.content, words)))
        .sort((a, b) => b.updated_at - a.updated_at);
      return { data: structuredClone(data), has_more: false };
    },
    async create(fields, messages) {
      const bytes = crypto.getRandomValues(new Uint8Array(16));
      const id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
      const created = { id, ...fields, messages, created_at: Date.now(), revision: -1 };
      kept.set(id, structuredClone(created));
      return touch(kept.get(id));
    },
    read: async (id) => structuredClone(find(id)),
    edit: async (id, fields) => touch(Object.assign(find(id), fields)),
    remove: async (id) => void kept.delete(id),
    async write(id, revision, from, messages) {
      const conversation = find(id);
      conversation.messages.splice(from, Infinity, ...structuredClone(messages));
      return touch(conversation);
    },
  };
}
