/* The page: which conversation is open, what is being written, and what follows from a click or a
 * key. How messages look is in messages.js, the list in sidebar.js, dialogs in dialogs.js, and the
 * server is spoken to by net.js.
 *
 * A conversation: {id, title, model, settings, messages, revision, saved, kept, writes, live}.
 * `saved` of its messages are the same in the store, which has `kept`; `live` is the answer being
 * written. A conversation gets its id when it is first stored. */
import { listModels, memoryStore, serverStore, streamAnswer } from "./net.js";
import * as messages from "./messages.js";
import * as sidebar from "./sidebar.js";
import { ask, askSettings, defaultSettings, openMenu, showCard, showShortcuts } from "./dialogs.js";
import { element } from "./markdown.js";

const byId = (id) => document.getElementById(id);
const scroller = byId("scroll");
const field = byId("text");

const onGlass = matchMedia("(hover: none) and (pointer: coarse)"); /* there Enter begins a line */

const PAINT_EVERY = 60; /* milliseconds between two looks of a growing answer */
const RETRY_AFTER = 2000; /* while the server loads its model */
const MAX_TITLE = 60;

const EXAMPLES = [
  ["Explain", "how a rainbow forms, in three sentences"],
  ["Write", "a Python function that tells whether a number is prime"],
  ["Plan", "a quiet weekend in a town by the sea"],
  ["Put politely", "“I won’t come on Friday, the meeting is too long”"],
];

let store = serverStore;
let models = [];
let current = newConversation();
const live = new Map(); /* by id: conversations that are written to, open or not */

function newConversation() {
  const settings = defaultSettings();
  return {
    id: null, title: "", model: "", settings, messages: [],
    revision: -1, saved: 0, kept: 0, writes: Promise.resolve(), live: null,
  };
}

/* --- What is shown --------------------------------------------------------------------------- */

function announce(text) {
  byId("status").textContent = "";
  requestAnimationFrame(() => (byId("status").textContent = text));
}

/* A problem stays until it is dismissed or the conversation is left. */
function showProblem(text, label, act) {
  const problem = element("div", { class: "problem" }, element("p", {}, text));
  const addButton = (name, run) => {
    const button = element("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      problem.remove();
      field.focus();
      run?.();
    });
    problem.append(button);
  };
  if (label) addButton(label, act);
  addButton("Dismiss", null);
  byId("trouble").replaceChildren(problem);
  follow(true);
}

function sentence(error) {
  const text = error.message ?? String(error);
  const first = /^[a-z]+[ ,:]/.test(text) ? text[0].toUpperCase() : text[0]; /* not a file's name */
  return first + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function showFailure(error, again) {
  if (error.status === 401 || error.status === 403)
    showProblem("The server asks for an API key.", "Enter it", () => changeSettings(true));
  else showProblem(sentence(error), again ? "Try again" : null, again);
}

const isAtEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
let follows = true; /* the end of the conversation, as it grows */

function follow(always = false) {
  if (always) follows = true;
  if (follows) scroller.scrollTop = scroller.scrollHeight;
  byId("latest").hidden = follows || isAtEnd();
}

function showControls() {
  const writing = Boolean(current.live);
  const hadFocus = [byId("send"), byId("stop")].includes(document.activeElement);
  byId("send").hidden = writing;
  byId("stop").hidden = !writing;
  byId("send").disabled = field.value.trim() === "";
  if (hadFocus) field.focus();
  byId("welcome").hidden = current.messages.length > 0;
  byId("menu").hidden = current.messages.length === 0;
  byId("title").textContent = current.title || "New conversation";
  document.title = current.title ? `${current.title} - Bitloom` : "Bitloom";
  sidebar.mark(current.id, new Set(live.keys()));
}

function showConversation(conversation) {
  current = conversation;
  byId("trouble").replaceChildren();
  messages.showAll(conversation.messages);
  chooseModel(conversation.model);
  showControls();
  follow(true);
}

/* --- Storing --------------------------------------------------------------------------------- */

/* Writes wait for each other, and each brings the store up to what is here then, so that one that
 * fails is made good by the next. */
function save(conversation) {
  conversation.writes = conversation.writes
    .then(() => write(conversation))
    .catch((error) => {
      if (conversation === current)
        showProblem(`This is not stored, but goes on here. ${sentence(error)}`, "Try again", () =>
          save(conversation),
        );
    });
  return conversation.writes;
}

function fieldsOf({ title, model, settings }) {
  return { title, model, settings };
}

async function create(conversation, done) {
  const mark = await store.create(fieldsOf(conversation), done);
  if (conversation.id) live.delete(conversation.id);
  conversation.id = mark.id;
  if (conversation.live) live.set(mark.id, conversation);
  if (conversation === current) history.replaceState(null, "", `#${mark.id}`);
  return mark;
}

async function write(conversation) {
  const done = conversation.messages.filter((message) => !message.pending);
  const { id, revision, saved, kept, isGone } = conversation;
  if (isGone || done.length === 0 || (id && saved === done.length && kept === saved)) return;
  conversation.cut = undefined;
  const stored = done.map(({ role, content, details }) => ({ role, content, details }));
  let mark;
  try {
    mark = id
      ? await store.write(id, revision, saved, stored.slice(saved))
      : await create(conversation, stored);
  } catch (error) {
    /* Changed or deleted elsewhere: both versions are kept. */
    if (!id || (error.status !== 409 && error.status !== 404)) throw error;
    mark = await create(conversation, stored);
  }
  conversation.revision = mark.revision;
  conversation.saved = Math.min(done.length, conversation.cut ?? Infinity); /* cut meanwhile */
  conversation.kept = done.length;
  sidebar.refresh();
  showControls();
}

/* Drops messages from position k on, here; the next write does so in the store. */
function cut(conversation, k) {
  for (const message of conversation.messages.splice(k)) messages.removeMessage(message);
  conversation.saved = Math.min(conversation.saved, k);
  conversation.cut = k;
}

async function editFields(conversation) {
  if (!conversation.id) return;
  conversation.writes = conversation.writes
    .then(() => store.edit(conversation.id, fieldsOf(conversation)))
    .then((mark) => void (conversation.revision = mark.revision))
    .catch((error) => showFailure(error));
  await conversation.writes;
  sidebar.refresh();
}

/* --- Asking and answering -------------------------------------------------------------------- */

function titleOf(text) {
  const line = text.trim().split("\n")[0].replace(/\s+/g, " ");
  if (line.length <= MAX_TITLE) return line;
  const at = line.lastIndexOf(" ", MAX_TITLE);
  return `${line.slice(0, at > MAX_TITLE / 2 ? at : MAX_TITLE)}…`;
}

function requestOf(conversation) {
  const { system, ...numbers } = conversation.settings;
  const said = conversation.messages
    .filter((message) => !message.pending || message.content)
    .map(({ role, content }) => ({ role, content }));
  const first = system ? [{ role: "system", content: system }] : [];
  const request = { messages: first.concat(said), ...numbers };
  if (conversation.model) request.model = conversation.model;
  return request;
}

/* What is remembered of an answer: tokens, their rate and energy as the server counts them. A rate
 * that it does not give is taken here, where there was time to. */
function detailsOf(end, answer) {
  const seconds = (performance.now() - answer.first) / 1000;
  const tokens = end?.usage?.completion_tokens ?? answer.pieces;
  const measured = answer.first && seconds > 1 ? (tokens - 1) / seconds : 0;
  const rate = end?.timings?.predicted_per_second ?? measured;
  const details = { tokens: tokens + answer.before };
  if (rate > 0) details.tokens_per_second = Math.round(rate * 100) / 100;
  const joules = typeof end?.energy === "number" ? end.energy : end?.energy?.joules;
  if (joules > 0) details.joules = Math.round(joules * 100) / 100;
  if (end?.finish) details.finish = end.finish;
  return details;
}

function paint(conversation, message) {
  if (conversation !== current) return;
  messages.showMessage(message);
  follow();
}

/* Writes an answer, or goes on with one that was cut short: the server takes a last message of the
 * assistant's for the beginning of its answer. */
async function answer(conversation, begun = null) {
  const message = begun ?? { role: "assistant", content: "", details: {} };
  const before = message.details.tokens ?? 0;
  const controller = new AbortController();
  const writing = { controller, message, before, first: 0, pieces: 0, timer: 0 };
  message.pending = true;
  if (begun) conversation.saved = Math.min(conversation.saved, conversation.messages.length - 1);
  else conversation.messages.push(message);
  conversation.live = writing;
  if (conversation.id) live.set(conversation.id, conversation);
  byId("trouble").replaceChildren();
  paint(conversation, message);
  showControls();
  follow(true);
  announce("The answer begins");
  const request = requestOf(conversation);
  let end = null;
  let failure = null;
  try {
    end = await streamAnswer(request, writing.controller.signal, (text) => {
      writing.first ||= performance.now();
      writing.pieces++;
      message.content += text;
      writing.timer ||= setTimeout(() => {
        writing.timer = 0;
        message.details = detailsOf(null, writing);
        paint(conversation, message);
      }, PAINT_EVERY);
    });
  } catch (error) {
    failure = error;
  }
  clearTimeout(writing.timer);
  finish(conversation, writing, end, failure);
}

function finish(conversation, writing, end, failure) {
  const { message } = writing;
  const wanted = failure?.name === "AbortError";
  message.pending = false;
  message.details = detailsOf(end, writing);
  if (failure) message.details.stopped = true;
  conversation.live = null;
  live.delete(conversation.id);
  if (failure && !message.content) {
    conversation.messages.pop();
    messages.removeMessage(message);
  } else {
    paint(conversation, message);
  }
  showControls();
  save(conversation);
  if (conversation !== current) return;
  if (failure && !wanted) showFailure(failure, () => answerAnew(conversation));
  announce(wanted ? "Stopped" : failure ? "The answer failed" : spoken(message.content));
}

/* The answer for those who listen to the page; a long one is there to be read. */
function spoken(text) {
  const words = text.split(/\s+/).length;
  return text.length <= 1500 ? `Answer: ${text}` : `The answer is complete, ${words} words`;
}

function goOn(conversation) {
  const last = conversation.messages.at(-1);
  if (!conversation.live && last?.role === "assistant") answer(conversation, last);
}

/* An answer to the last message of the user's, instead of what came behind it. */
function answerAnew(conversation) {
  if (conversation.live) return;
  const asked = conversation.messages.findLastIndex((message) => message.role === "user");
  if (asked < 0) return;
  if (asked + 1 < conversation.messages.length) cut(conversation, asked + 1);
  answer(conversation);
}

function submit(text) {
  const conversation = current;
  if (conversation.live) return;
  conversation.title ||= titleOf(text);
  conversation.model ||= byId("model").value;
  conversation.messages.push({ role: "user", content: text, details: {} });
  messages.showMessage(conversation.messages.at(-1));
  save(conversation);
  answer(conversation);
}

function stop(conversation = current) {
  conversation.live?.controller.abort();
}

/* --- Opening, changing, deleting ------------------------------------------------------------- */

function startNew() {
  opened++;
  if (location.hash) history.pushState(null, "", location.pathname + location.search);
  showConversation(newConversation());
  closeSidebar();
  field.focus();
}

let opened = 0; /* so that a late reply does not take the place of what was opened after it */

async function open(id) {
  const mine = ++opened;
  closeSidebar();
  if (id === current.id) return;
  if (live.has(id)) {
    showConversation(live.get(id));
    return;
  }
  try {
    const stored = await store.read(id);
    if (mine !== opened) return;
    const { title, model, settings, revision } = stored;
    const said = stored.messages.map(({ role, content, details }) => ({ role, content, details }));
    const n = said.length;
    const conversation = { ...newConversation(), id, title, model, settings, revision };
    showConversation({ ...conversation, messages: said, saved: n, kept: n });
    const idle = [document.body, ...byId("list").querySelectorAll("a")];
    if (matchMedia("(hover: hover)").matches && idle.includes(document.activeElement)) field.focus();
    announce(`${title}, ${n} messages`);
  } catch (error) {
    if (mine !== opened) return;
    if (error.status !== 404) return showFailure(error);
    startNew();
    showProblem("That conversation is not here any more.");
  }
}

async function rename(row) {
  const title = await ask({ title: "Rename the conversation", ok: "Rename", value: row.title });
  if (!title) return;
  const conversation = row.id === current.id ? current : live.get(row.id);
  if (conversation) {
    conversation.title = title;
    await editFields(conversation);
  } else {
    await store.edit(row.id, { title }).catch((error) => showFailure(error));
    sidebar.refresh();
  }
  showControls();
}

async function remove(row) {
  const sure = await ask({
    title: "Delete the conversation?",
    text: `“${row.title}” and its messages will be gone for good.`,
    ok: "Delete",
    danger: true,
  });
  if (!sure) return;
  const conversation = row.id === current.id ? current : live.get(row.id);
  if (conversation) {
    conversation.isGone = true;
    stop(conversation);
  }
  try {
    await conversation?.writes;
    if (row.id) await store.remove(row.id);
  } catch (error) {
    if (error.status !== 404) return showFailure(error);
  }
  if (conversation === current) startNew();
  await sidebar.refresh();
  announce("Deleted");
}

function markdownOf({ title, messages: said }) {
  const names = { user: "You", assistant: "Assistant", system: "System", tool: "Tool" };
  const parts = said.map(({ role, content }) => `## ${names[role] ?? role}\n\n${content}\n`);
  return `# ${title}\n\n${parts.join("\n")}`;
}

async function exportAs(row, type) {
  let whole = current;
  try {
    if (row.id && row.id !== current.id) whole = await store.read(row.id);
  } catch (error) {
    return showFailure(error);
  }
  const { title, model, settings } = whole;
  const said = whole.messages.map(({ role, content, details }) => ({ role, content, details }));
  const text =
    type === "md"
      ? markdownOf({ title, messages: said })
      : `${JSON.stringify({ title, model, settings, messages: said }, null, 2)}\n`;
  const name = title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 60);
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  element("a", { href: url, download: `${name || "conversation"}.${type}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

function menuOf(row) {
  return [
    { label: "Rename…", act: () => rename(row) },
    { label: "Export as Markdown", act: () => exportAs(row, "md") },
    { label: "Export as JSON", act: () => exportAs(row, "json") },
    { label: "Delete…", act: () => remove(row), danger: true },
  ];
}

async function changeSettings(focusKey = false) {
  const changed = await askSettings(current.settings, focusKey);
  if (!changed) return;
  current.settings = changed;
  await editFields(current);
  if (!models.length) start();
}

/* --- Models ---------------------------------------------------------------------------------- */

function chooseModel(id) {
  const select = byId("model");
  if (models.some((model) => model.id === id)) select.value = id;
  else if (models.length) select.value = models[0].id;
  const several = models.length > 1;
  select.hidden = !several;
  byId("open-card").hidden = !models.length;
  byId("open-card").replaceChildren(element("span", {}, several ? "Card" : (models[0]?.id ?? "")));
  byId("open-card").setAttribute("aria-label", `Model card: ${select.value}`);
}

function setModels(list) {
  models = list;
  byId("model").replaceChildren(...models.map(({ id }) => element("option", { value: id }, id)));
  chooseModel(current.model);
}

/* --- Keys, clicks and the start -------------------------------------------------------------- */

function openSidebar() {
  byId("sidebar").classList.add("open");
  byId("open-sidebar").setAttribute("aria-expanded", "true");
  byId("close-sidebar").focus();
}

function closeSidebar() {
  if (!byId("sidebar").classList.contains("open")) return;
  byId("sidebar").classList.remove("open");
  byId("open-sidebar").setAttribute("aria-expanded", "false");
  byId("open-sidebar").focus();
}

function fitField() {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function sendField() {
  const text = field.value.trim();
  if (!text || current.live) return;
  field.value = "";
  fitField();
  submit(text);
}

function editLast() {
  const last = current.messages.findLast((message) => message.role === "user");
  if (last && !current.live) messages.startEdit(last);
}

function lastAnswer() {
  return current.messages.findLast((message) => message.role === "assistant");
}

const ALT_KEYS = {
  KeyN: startNew,
  KeyK: () => {
    if (matchMedia("(max-width: 48rem)").matches) openSidebar();
    byId("search").focus();
  },
  KeyR: () => answerAnew(current),
  KeyC: () => lastAnswer() && messages.copy(lastAnswer().content),
  KeyM: () => field.focus(),
  KeyO: () => changeSettings(),
  Slash: showShortcuts,
};

function onKey(event) {
  if (document.querySelector("dialog[open]")) return;
  const plainAlt = event.altKey && !event.ctrlKey && !event.metaKey && !event.shiftKey;
  if (plainAlt && ALT_KEYS[event.code]) {
    event.preventDefault();
    ALT_KEYS[event.code]();
  } else if (event.key === "Escape") {
    if (byId("sidebar").classList.contains("open")) closeSidebar();
    else stop();
  }
}

function onFieldKey(event) {
  if (event.isComposing) return;
  if (event.key === "Enter" && !event.shiftKey && !onGlass.matches) {
    event.preventDefault();
    sendField();
  } else if (event.key === "ArrowUp" && field.value === "") {
    event.preventDefault();
    editLast();
  }
}

const THEMES = { "": "as the system", light: "light", dark: "dark" };

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  localStorage.setItem("bitloom.theme", theme);
  byId("theme").setAttribute("aria-label", `Colours: ${THEMES[theme]}; change`);
  byId("theme").title = `Colours: ${THEMES[theme]}`;
}

function nextTheme() {
  const names = Object.keys(THEMES);
  const now = document.documentElement.dataset.theme ?? "";
  setTheme(names[(names.indexOf(now) + 1) % names.length]);
  announce(byId("theme").title);
}

function wire() {
  messages.setActions({
    announce,
    regenerate: () => answerAnew(current),
    goOn: () => goOn(current),
    edit(message, text) {
      const at = current.messages.indexOf(message);
      if (current.live || at < 0) return;
      cut(current, at);
      submit(text);
      field.focus();
    },
  });
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    sendField();
  });
  field.addEventListener("keydown", onFieldKey);
  field.addEventListener("input", () => {
    fitField();
    showControls();
  });
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); /* its address would be taken for that of a conversation */
    field.focus();
  });
  byId("stop").addEventListener("click", () => stop());
  byId("new").addEventListener("click", startNew);
  byId("menu").addEventListener("click", () => openMenu(byId("menu"), menuOf(current)));
  byId("open-settings").addEventListener("click", () => changeSettings());
  byId("open-shortcuts").addEventListener("click", showShortcuts);
  byId("open-sidebar").addEventListener("click", openSidebar);
  byId("close-sidebar").addEventListener("click", closeSidebar);
  byId("shade").addEventListener("click", closeSidebar);
  byId("theme").addEventListener("click", nextTheme);
  byId("latest").addEventListener("click", () => follow(true));
  byId("open-card").addEventListener("click", () =>
    showCard(models.find((model) => model.id === byId("model").value) ?? models[0]),
  );
  byId("model").addEventListener("change", () => {
    current.model = byId("model").value;
    chooseModel(current.model);
    editFields(current);
  });
  scroller.addEventListener("scroll", () => {
    follows = isAtEnd();
    byId("latest").hidden = follows;
    document.querySelector("header").classList.toggle("over", scroller.scrollTop > 4);
  });
  document.addEventListener("keydown", onKey);
  addEventListener("popstate", openHash);
  addEventListener("pagehide", keepUnfinished);
}

/* A page that is closed in the middle of an answer stores what there is of it. */
function keepUnfinished() {
  for (const conversation of live.values()) {
    const { message } = conversation.live;
    if (!message.content) continue;
    message.pending = false;
    message.details.stopped = true;
    write(conversation).catch(() => {});
  }
}

function openHash() {
  const id = location.hash.slice(1);
  if (/^[0-9a-f]{32}$/.test(id)) open(id);
  else if (current.messages.length && current.id) showConversation(newConversation());
}

function showExamples() {
  for (const [verb, rest] of EXAMPLES) {
    const button = element("button", { type: "button" }, element("b", {}, verb), element("span", {}, rest));
    button.addEventListener("click", () => {
      submit(`${verb} ${rest}`);
      field.focus();
    });
    byId("examples").append(element("li", {}, button));
  }
}

async function chooseStore() {
  try {
    const { stored } = await serverStore.list();
    store = stored === false ? memoryStore() : serverStore;
  } catch (error) {
    if (error.status !== 404) throw error;
    store = memoryStore();
  }
}

async function start() {
  try {
    setModels(await listModels());
    await chooseStore();
  } catch (error) {
    if (error.status === 503 || error.status === 0) {
      showProblem(error.status ? "The server is loading its model." : sentence(error));
      setTimeout(start, RETRY_AFTER);
    } else {
      showFailure(error, start);
    }
    return;
  }
  byId("trouble").replaceChildren();
  sidebar.setUp(store, { menu: menuOf, problem: (error) => showFailure(error) });
  await sidebar.refresh();
  openHash();
  showControls();
}

wire();
showExamples();
setTheme(localStorage.getItem("bitloom.theme") ?? "");
showControls();
field.focus();
start();
