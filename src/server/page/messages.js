/* How messages look, and what can be done with one. Knows neither the server nor conversations:
 * what is wanted is handed to the `actions` given at the start. */
import { element, show } from "./markdown.js";

const PATHS = {
  copy: "M9 9h10v11H9zM5 15V4h10",
  on: "M5 12h13M13 7l5 5-5 5",
  again: "M19 12a7 7 0 11-2.2-5.1M17 3v4h-4",
  edit: "M5 19h3L19 8l-3-3L5 16z",
};

const list = document.getElementById("messages");
const rows = new WeakMap(); /* by message: its list item */
let actions = {};

/** actions: {regenerate(message), goOn(message), edit(message, text), announce(text)} */
export function setActions(given) {
  actions = given;
}

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

function actionButton(name, label, act) {
  const button = element("button", { type: "button", "data-name": name }, icon(name), label);
  button.addEventListener("click", () => act(button));
  return button;
}

/** Puts text on the clipboard; on plain HTTP beyond this machine, by the older way. */
export async function copy(text, button) {
  const dialogFree = document.activeElement;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = element("textarea", { class: "unseen", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    dialogFree?.focus();
  }
  actions.announce("Copied");
  const label = button?.lastChild;
  if (!label || label.textContent === "Copied") return;
  const before = label.textContent;
  label.textContent = "Copied";
  setTimeout(() => (label.textContent = before), 1500);
}

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

/** "23.1 tokens/s · 184 tokens · 12.4 J" from what is known of an answer. */
export function describe(details) {
  const parts = [];
  if (details.tokens_per_second > 0) parts.push(`${number.format(details.tokens_per_second)} tokens/s`);
  if (details.tokens > 0) parts.push(`${number.format(details.tokens)} tokens`);
  if (details.joules > 0) parts.push(`${number.format(details.joules)} J`);
  if (details.finish === "length") parts.push("cut at the limit of tokens");
  if (details.stopped) parts.push("stopped");
  return parts.join(" · ");
}

function addActions(row, message) {
  const bar = element("div", { class: "actions" });
  bar.append(actionButton("copy", "Copy", (button) => copy(message.content, button)));
  if (message.role === "user")
    bar.prepend(actionButton("edit", "Edit", () => startEdit(message)));
  else {
    bar.append(actionButton("again", "Regenerate", () => actions.regenerate(message)));
    bar.append(actionButton("on", "Continue", () => actions.goOn(message)));
  }
  bar.append(element("span", { class: "figures" }));
  row.append(bar);
}

function fill(row, message) {
  const text = row.querySelector(".text");
  if (message.role === "user") {
    text.textContent = message.content;
    return;
  }
  if (message.content) {
    text.querySelector(".waiting")?.remove();
    show(text, message.content);
  } else if (message.pending) {
    text.replaceChildren(
      element("span", { class: "waiting" }, element("i"), element("i"), element("i")),
    );
  } else {
    text.replaceChildren(element("p", { class: "note" }, "The answer is empty."));
  }
  row.querySelector(".figures").textContent = describe(message.details);
  row.querySelector(".actions").hidden = Boolean(message.pending);
  row.setAttribute("aria-busy", String(Boolean(message.pending)));
}

/** Adds a message at the end, or shows what has become of it. */
export function showMessage(message) {
  let row = rows.get(message);
  if (!row?.isConnected) {
    const mine = message.role === "user";
    row = element(
      "li",
      { class: mine ? "mine" : "theirs" },
      element("h2", { class: "unseen" }, mine ? "You" : "Answer"),
      element("div", { class: mine ? "text" : "text prose" }),
    );
    addActions(row, message);
    rows.set(message, row);
    list.append(row);
  }
  fill(row, message);
  row.isCut = Boolean(message.details.stopped || message.details.finish === "length");
  markLast();
}

/* Only the last answer can be written anew or, when it was cut short, go on. */
function markLast() {
  for (const button of list.querySelectorAll('[data-name="again"], [data-name="on"]')) {
    const row = button.closest("li");
    button.hidden = row !== list.lastElementChild || (button.dataset.name === "on" && !row.isCut);
  }
}

export function removeMessage(message) {
  rows.get(message)?.remove();
  rows.delete(message);
  markLast();
}

export function showAll(messages) {
  list.replaceChildren();
  for (const message of messages) if (message.role !== "system") showMessage(message);
}

/** Turns a message of the user's into a field; what is behind it goes when that is sent. */
export function startEdit(message) {
  const row = rows.get(message);
  if (!row || row.querySelector(".edit")) return;
  const area = element("textarea", { "aria-label": "Edit the message", rows: "3" });
  area.value = message.content;
  const form = element(
    "form",
    { class: "edit" },
    area,
    element(
      "div",
      { class: "buttons" },
      element("button", { type: "button", class: "quiet" }, "Cancel"),
      element("button", { type: "submit", class: "main" }, "Send"),
    ),
  );
  const shown = [...row.children].slice(1);
  const finish = () => {
    form.remove();
    for (const part of shown) part.hidden = false;
    row.querySelector('[data-name="edit"]').focus();
  };
  form.querySelector("button").addEventListener("click", finish);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = area.value.trim();
    if (!text) return;
    finish();
    actions.edit(message, text);
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.stopPropagation();
      finish();
    } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  for (const part of shown) part.hidden = true;
  row.append(form);
  area.focus();
  area.setSelectionRange(area.value.length, area.value.length);
}

list.addEventListener("click", (event) => {
  const button = event.target.closest('[data-action="copy-code"]');
  if (button) copy(button.closest(".code").querySelector("code").textContent, button);
});
