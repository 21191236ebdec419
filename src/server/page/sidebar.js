/* The list of conversations. Knows the store, and hands what is chosen to the `actions` given at
 * the start. */
import { element } from "./markdown.js";
import { openMenu } from "./dialogs.js";

const byId = (id) => document.getElementById(id);
const DAY = 24 * 3600 * 1000;

let store = null;
let actions = {};
let rows = []; /* as the store gave them */
let hasMore = false;
let currentId = null;
let writing = new Set(); /* ids of conversations that are being answered */
let asked = 0; /* so that a late reply to an earlier question is not shown */

/** actions: {menu(row), problem(error)} */
export function setUp(givenStore, givenActions) {
  store = givenStore;
  actions = givenActions;
  byId("list-note").hidden = store.isKept;
  byId("list-note").textContent = "Conversations are kept until this page is closed.";
}

/** Asks for the list; with `more`, for what comes behind what is shown. */
export async function refresh(more = false) {
  const query = byId("search").value.trim();
  const mine = ++asked;
  try {
    const after = more ? rows.at(-1)?.id : "";
    const reply = await store.list({ query, after });
    if (mine !== asked) return;
    rows = more ? rows.concat(reply.data) : reply.data;
    hasMore = reply.has_more;
    render();
  } catch (error) {
    if (mine === asked) actions.problem(error);
  }
}

export function mark(id, writingIds) {
  currentId = id;
  writing = writingIds;
  for (const entry of byId("list").querySelectorAll("li")) markEntry(entry);
}

function markEntry(entry) {
  const isCurrent = entry.dataset.id === currentId;
  entry.classList.toggle("current", isCurrent);
  entry.classList.toggle("writing", writing.has(entry.dataset.id));
  const link = entry.querySelector("a");
  if (isCurrent) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

function groupOf(time) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (time >= midnight) return "Today";
  if (time >= midnight - DAY) return "Yesterday";
  if (time >= midnight - 7 * DAY) return "Last seven days";
  return new Date(time).toLocaleDateString("en", { month: "long", year: "numeric" });
}

function entryOf(row) {
  const title = row.title || "Untitled";
  const link = element("a", { href: `#${row.id}`, title }, element("span", {}, title));
  if (row.excerpt) link.append(element("span", { class: "excerpt" }, row.excerpt));
  const button = byId("menu").cloneNode(true);
  button.removeAttribute("id");
  button.hidden = false;
  button.classList.add("row-menu");
  button.setAttribute("aria-label", `Rename, export or delete: ${title}`);
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => openMenu(button, actions.menu(row)));
  const entry = element("li", { "data-id": row.id }, link, button);
  markEntry(entry);
  return entry;
}

function render() {
  const list = byId("list");
  const focused = list.contains(document.activeElement) ? document.activeElement : null;
  const focusedId = focused?.closest("li")?.dataset.id;
  list.replaceChildren();
  let group = null;
  for (const row of rows) {
    const name = groupOf(row.updated_at);
    if (name !== group) {
      list.append(element("h2", {}, name), element("ul"));
      group = name;
    }
    list.lastElementChild.append(entryOf(row));
  }
  if (!rows.length && byId("search").value.trim())
    list.append(element("p", { class: "note" }, "Nothing found."));
  byId("more").hidden = !hasMore;
  if (focusedId)
    list.querySelector(`li[data-id="${focusedId}"] ${focused.matches("a") ? "a" : "button"}`)?.focus();
}

let typing = 0;
byId("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(refresh, 200);
});
byId("more").addEventListener("click", () => refresh(true));
