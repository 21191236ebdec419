/* What opens above the page: settings, the model's card, shortcuts, questions, menus. */
import { element } from "./markdown.js";
import { apiKey } from "./net.js";

const byId = (id) => document.getElementById(id);
const DEFAULTS = "bitloom.settings";

/* Settings that are numbers, by their names in the API. */
const NUMBERS = [
  { name: "temperature", label: "Temperature", min: 0, max: 5, note: "0: always the likeliest token" },
  { name: "top_k", label: "Top-k", min: 0, max: 1000000, whole: true, note: "of so many tokens" },
  { name: "top_p", label: "Top-p", min: 0, max: 1, note: "of this share of probability" },
  { name: "min_p", label: "Min-p", min: 0, max: 1, note: "of those this near the likeliest" },
  { name: "repeat_penalty", label: "Repeat penalty", min: 0.1, max: 10, note: "1: none" },
  { name: "max_tokens", label: "Longest answer", min: 1, max: 1000000, whole: true, note: "tokens" },
  { name: "seed", label: "Seed", min: 0, max: 2 ** 53 - 1, whole: true, note: "same seed, same answer" },
];

export const SHORTCUTS = [
  ["Enter", "Send the message"],
  ["Shift + Enter", "Begin a line"],
  ["Esc", "Stop the answer; close what is open"],
  ["↑", "Edit the last message, from an empty field"],
  ["Alt + N", "New conversation"],
  ["Alt + K", "Search conversations"],
  ["Alt + R", "Regenerate the last answer"],
  ["Alt + C", "Copy the last answer"],
  ["Alt + M", "To the message field"],
  ["Alt + O", "Settings"],
  ["Alt + /", "This list"],
];

/** Shows a dialog until it closes; gives the value of the button that closed it. */
function showDialog(dialog) {
  return new Promise((resolve) => {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
    dialog.showModal();
  });
}

/** Asks before something is done. With `value`, for a line of text: gives that, else null. */
export async function ask({ title, text = "", ok, value, danger = false }) {
  const field = byId("ask-value");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-text").hidden = !text;
  byId("ask-ok").textContent = ok;
  byId("ask-ok").classList.toggle("bad", danger);
  field.hidden = value === undefined;
  field.required = value !== undefined;
  field.value = value ?? "";
  const shown = showDialog(byId("ask"));
  /* Enter takes the first button, which is the careful one: for a line of text it must not be. */
  field.onkeydown = (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    byId("ask-ok").click();
  };
  (value === undefined ? byId("ask-ok") : field).focus();
  if (value !== undefined) field.select();
  if ((await shown) !== "ok") return null;
  return value === undefined ? true : field.value.trim() || null;
}

/* --- Settings -------------------------------------------------------------------------------- */

/** What new conversations begin with. */
export function defaultSettings() {
  try {
    return JSON.parse(localStorage.getItem(DEFAULTS)) ?? {};
  } catch {
    return {};
  }
}

function fillSettings(settings) {
  byId("set-system").value = settings.system ?? "";
  for (const { name } of NUMBERS) byId(`set-${name}`).value = settings[name] ?? "";
  byId("set-key").value = apiKey.get();
}

function readSettings() {
  const settings = {};
  const system = byId("set-system").value.trim();
  if (system) settings.system = system;
  for (const { name } of NUMBERS) {
    const field = byId(`set-${name}`);
    if (field.value !== "" && field.validity.valid) settings[name] = field.valueAsNumber;
  }
  return settings;
}

/** Gives the changed settings, or null; they are those of new conversations too. */
export async function askSettings(settings, focusKey = false) {
  fillSettings(settings);
  const shown = showDialog(byId("settings"));
  if (focusKey) byId("set-key").focus();
  if ((await shown) !== "ok") return null;
  const changed = readSettings();
  localStorage.setItem(DEFAULTS, JSON.stringify(changed));
  apiKey.set(byId("set-key").value.trim());
  return changed;
}

function makeSettings() {
  for (const { name, label, min, max, whole, note } of NUMBERS) {
    const id = `set-${name}`;
    const attributes = { id, name, type: "number", min, max, step: whole ? 1 : "any" };
    byId("numbers").append(
      element(
        "div",
        {},
        element("label", { for: id }, label),
        element("input", { ...attributes, "aria-describedby": `${id}-note`, placeholder: "auto" }),
        element("p", { id: `${id}-note`, class: "note" }, note),
      ),
    );
  }
  byId("reset").addEventListener("click", () => fillSettings({}));
}

/* --- The model's card and the list of shortcuts ---------------------------------------------- */

function factText(value, name = "") {
  if (name.endsWith("_bytes")) return `${Math.round(value / 1e5) / 10} MB`;
  if (typeof value === "number") return Number.isInteger(value) ? value.toLocaleString("en") : String(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  return Array.isArray(value) ? value.map((one) => factText(one)).join(", ") : String(value);
}

/* {"trained_context": 4096} reads as "Trained context". */
function factName(name) {
  const words = name.replace(/_bytes$/, "").replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

/** Shows all that the server says of a model. */
export function showCard(model) {
  const facts = byId("facts");
  facts.replaceChildren();
  const add = (name, value) => {
    if (value === null || value === undefined || value === "") return;
    if (typeof value === "object" && !Array.isArray(value))
      for (const [inner, deeper] of Object.entries(value)) add(inner, deeper);
    else if (name === "created") add("made", new Date(value * 1000).toLocaleDateString("en-CA"));
    else if (name !== "object")
      facts.append(element("dt", {}, factName(name)), element("dd", {}, factText(value, name)));
  };
  for (const [name, value] of Object.entries(model)) add(name, value);
  return showDialog(byId("card"));
}

export function showShortcuts() {
  return showDialog(byId("shortcuts"));
}

function makeShortcuts() {
  const keys = byId("shortcuts").querySelector("dl");
  for (const [key, meaning] of SHORTCUTS) {
    const names = key.split(" + ").flatMap((name, i) => [i ? " + " : "", element("kbd", {}, name)]);
    keys.append(element("dt", {}, ...names), element("dd", {}, meaning));
  }
}

/* --- Menus ----------------------------------------------------------------------------------- */

let closeMenu = () => {};

/** Opens a menu below a button. items: [{label, act, danger}]. */
export function openMenu(button, items) {
  const wasOpen = button.getAttribute("aria-expanded") === "true";
  closeMenu();
  if (wasOpen) return;
  const menu = element("div", { class: "menu", role: "menu", "aria-label": button.ariaLabel });
  const entries = items.map(({ label, act, danger }) => {
    const attributes = { type: "button", role: "menuitem", tabindex: "-1", class: danger ? "bad" : null };
    const entry = element("button", attributes, label);
    entry.addEventListener("click", () => {
      closeMenu();
      button.focus();
      act();
    });
    return entry;
  });
  menu.append(...entries);
  document.querySelector("main").append(menu);
  place(menu, button);
  button.setAttribute("aria-expanded", "true");
  const outside = (event) => {
    if (!menu.contains(event.target) && !button.contains(event.target)) closeMenu();
  };
  document.addEventListener("pointerdown", outside);
  closeMenu = () => {
    closeMenu = () => {};
    document.removeEventListener("pointerdown", outside);
    menu.remove();
    button.setAttribute("aria-expanded", "false");
  };
  menu.addEventListener("keydown", (event) => moveInMenu(event, entries, button));
  entries[0].focus();
}

function place(menu, button) {
  const at = button.getBoundingClientRect();
  const left = Math.min(at.left, innerWidth - menu.offsetWidth - 8);
  const below = at.bottom + 4;
  const top = below + menu.offsetHeight > innerHeight ? at.top - menu.offsetHeight - 4 : below;
  menu.style.left = `${Math.max(8, left)}px`;
  menu.style.top = `${Math.max(8, top)}px`;
}

function moveInMenu(event, entries, button) {
  const at = entries.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
  if (event.key === "Escape" || event.key === "Tab") {
    closeMenu();
    button.focus();
  } else if (to === undefined) return;
  else entries.at(to % entries.length).focus();
  if (event.key !== "Tab") event.preventDefault();
  event.stopPropagation();
}

makeSettings();
makeShortcuts();
