// One page: it asks every second what there is, shows it, and sends what a person says of it. An answer is done when
// the server has said so; until then it is sent again, and sending it twice changes nothing.

import { $, belief, item, make, nameOf, percent } from "/draw.js";
import { draw, header, pause } from "/panels.js";
import { Busy, Refused, call, claim, session } from "/talk.js";

const EVERY = 1000; // milliseconds between two looks

let now = null; // what the server told last
let view = sessionStorage.view === "grid" ? "grid" : "single";
let chosen = 0; // in the grid
let model = localStorage.predictions; // "shown" or "hidden"; the run's setting until P is pressed
let since = null; // when the item appeared; null until it can be seen
let epoch = 0; // what was asked before something was sent is out of date
let busy = 0; // things that are on their way to the server
let unsent = 0; // those of them that are labels
let broken = false; // the picture does not come
let spoken = ""; // what was done last, to be told together with what comes next
let calm; // a timer

const current = () => now?.items.at(view === "grid" ? chosen : 0) ?? null;
const labelling = () => now?.doing === "labelling" || (now?.doing === "working" && now.items.length > 0);
const later = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// --- talking to the server

async function look() {
  const asked = epoch;
  try {
    const told = await call("state", { view });
    if (asked === epoch && !busy) take(told);
    else connected();
  } catch (error) {
    trouble(error);
  }
  setTimeout(look, ["done", "stopped"].includes(now?.doing) ? 5 * EVERY : EVERY);
}

let sending = Promise.resolve();
function send(verb, body = {}) { // one after the other, in the order in which keys were pressed
  epoch++;
  busy++;
  if (verb === "answer") unsent++;
  sending = sending.catch(() => {}).then(async () => {
    let told = null;
    while (told === null) {
      try {
        told = await call(verb, { view, ...body });
      } catch (error) {
        if (error instanceof Refused) told = { refused: true, error: error.message };
        else { trouble(error); await later(EVERY); }
      }
    }
    busy--;
    if (verb === "answer") unsent--;
    if (told.refused && $("last").dataset.item === String(body.id)) last("");
    if (!busy && !told.error) take(told);
    else { connected(); acknowledged(body.id, !told.refused); }
    if (told.error) notice(told.error, "refused");
    else if (told.notice) notice(told.notice);
  });
  return sending;
}

function acknowledged(id, kept) { // in the grid, where more was said before the server's word on this item came
  const it = now?.items.find((other) => other.id === id);
  if (!it?.pending) return;
  it.pending--;
  if (!kept && !it.pending) it.said = null;
  if (view === "grid") many();
}

function trouble(error) {
  const labels = unsent === 1 ? "1 label is not sent yet." : unsent ? `${unsent} labels are not sent yet.` : "Your labels are safe.";
  if (error instanceof Refused) notice(error.message, "error");
  else if (error instanceof Busy) notice(error.message, "lost");
  else if (unsent || !["done", "stopped"].includes(now?.doing)) notice(`Connection lost, retrying. ${labels}`, "lost");
}

function connected() {
  if (["lost", "error"].includes($("notice").dataset.kind)) notice("");
}

function notice(text, kind = "calm") {
  clearTimeout(calm);
  $("notice").dataset.kind = kind;
  if ($("notice").textContent !== text) $("notice").textContent = text;
  if (text && ["calm", "refused"].includes(kind)) calm = setTimeout(() => notice(""), kind === "calm" ? 6000 : 12000);
}

// --- showing

function take(told) {
  const before = now;
  now = told;
  model ??= now.settings.predictions;
  connected();
  if (before?.run?.round !== now.run?.round) $("last").textContent = "";
  const at = now.items.findIndex((it) => it.id === before?.items[chosen]?.id); // where what was chosen is now
  chosen = at >= 0 ? at : Math.max(0, Math.min(chosen, now.items.length - 1));
  $("main").dataset.doing = now.doing;
  if (view === "grid" && !same(before, now)) firstOpen();
  header(now, view, model);
  items(before);
  pause(now);
}

const shape = (state) => JSON.stringify(state?.items.map((it) => [it.id, it.said, it.again, it.pending]));
const same = (a, b) => a !== null && JSON.stringify(a.items.map((it) => it.id)) === JSON.stringify(b.items.map((it) => it.id));

function items(before) {
  const has = now.items.length > 0;
  $("main").toggleAttribute("data-empty", !has);
  $("stage").hidden = !has;
  $("side").hidden = !has && !now.undo; // the last answer can be taken back for a while
  for (const id of ["abstain", "skip"]) $(id).disabled = !has;
  if (!has) { since = null; shown = null; if (spoken) say(spoken); return; }
  if (JSON.stringify(before?.run?.classes) !== JSON.stringify(now.run.classes) || !before?.run) answers();
  if (view === "grid") many(); else single();
  details();
}

let shown = null; // what the stage shows, so that it is not drawn anew every second
function single() {
  $("many").hidden = true;
  $("single").hidden = false;
  const it = current();
  if (shown === `single ${it.id} ${it.again}`) return;
  shown = `single ${it.id} ${it.again}`;
  since = null;
  broken = false;
  delete $("stage").dataset.seen;
  $("single").replaceChildren(item(it, `Item ${it.id}`, seen, () => {
    if (current()?.id !== it.id || view !== "single") return;
    broken = true;
    notice(`The picture of item ${it.id} cannot be shown; skip it or abstain.`, "refused");
  }));
  if (now.run.kind !== "classes") { $("value-of-it").value = ""; $("value-of-it").focus({ preventScroll: true }); }
  say(`${spoken}Item ${it.id}${it.again ? ", once more" : ""}. ${now.batch.answered} of ${now.batch.size} are labelled.`);
}

function seen() {
  broken = false;
  since = performance.now();
  $("stage").dataset.seen = current()?.id ?? ""; // for whoever waits for it
}

let thumbnails = new Map(); // by id
function many() {
  $("many").hidden = false;
  $("single").hidden = true;
  const key = `grid ${chosen} ${model} ${shape(now)}`;
  if (shown === key) return;
  if (!shown?.startsWith("grid")) { thumbnails = new Map(); seen(); }
  shown = key;
  const old = thumbnails;
  thumbnails = new Map();
  const thumbs = now.items.map((it, i) => {
    const thumb = old.get(it.id) ?? thumbnail(it);
    thumbnails.set(it.id, thumb);
    const guess = model === "shown" && it.model?.top ? it.model.top[0] : null;
    const text = it.said ? [make("span", { textContent: nameOf(it.said.label, now.run) }), it.pending ? "…" : "✓"]
      : guess ? [make("span", { textContent: `${now.run.classes[guess[0]].name} ?` }), percent(guess[1])] : [];
    thumb.lastChild.replaceChildren(...text);
    thumb.classList.toggle("said", Boolean(it.said) && !it.pending);
    thumb.setAttribute("aria-selected", i === chosen);
    thumb.setAttribute("aria-label", `Item ${it.id}` + (it.said ? `, ${nameOf(it.said.label, now.run)}` : ", open") + (it.pending ? ", not sent yet" : ""));
    thumb.tabIndex = i === chosen ? 0 : -1;
    return thumb;
  });
  const focused = $("many").contains(document.activeElement);
  $("many").replaceChildren(...thumbs);
  if (focused || document.activeElement === document.body) thumbs[chosen]?.focus({ preventScroll: false });
}

function thumbnail(it) {
  const thumb = make("div", { className: "thumb", role: "option" }, item(it, "", () => {}), make("p"));
  thumb.addEventListener("click", () => choose(now.items.findIndex((other) => other.id === it.id)));
  return thumb;
}

function choose(i) {
  if (i < 0 || i >= now.items.length) return;
  chosen = i;
  many();
  thumbnails.get(now.items[i].id).focus();
  details();
}

function firstOpen() {
  const open = now.items.findIndex((it) => !it.said);
  if (now.items[chosen]?.said && open >= 0) chosen = open;
}

function details() {
  const it = current();
  $("question").textContent = it.again ? "Once more: what is it?" : now.run.kind === "classes" ? "What is it?" : "What is its number?";
  $("model").hidden = model !== "shown" || !it.model;
  if (it.model) draw("belief", [it.model, now.run.classes], () => belief(it.model, now.run));
  for (const button of $("classes").children)
    button.setAttribute("aria-pressed", it.said !== null && String(it.said.label) === button.value);
}

function answers() {
  const { classes, kind } = now.run;
  $("number").hidden = kind === "classes";
  $("find").hidden = classes.length <= 40;
  const longest = Math.max(0, ...classes.map(({ name }) => name.length));
  $("classes").className = longest <= 4 ? "short" : longest > 16 ? "long" : "";
  if (classes.length > 24) $("classes").classList.add("many");
  $("classes").replaceChildren(...classes.map(({ name, key }, label) => {
    const button = make("button", { type: "button", value: label }, make("span", { textContent: name }));
    if (key && key !== name.toLowerCase()) button.append(make("kbd", { textContent: key.toUpperCase() }));
    if (key) button.setAttribute("aria-keyshortcuts", key);
    button.addEventListener("click", () => answer(label));
    return button;
  }));
}

function say(text) {
  $("live").textContent = text;
  spoken = "";
}

function last(text, id = "") { // what was done, which is spoken in one sentence with what comes next
  $("last").textContent = text;
  $("last").dataset.item = id;
  spoken = text && `${text}. `;
}

// --- what a person does

function answer(label) {
  const it = current();
  if (!labelling() || !it || (view === "single" && (busy || (since === null && !(broken && label === null))))) return;
  const seconds = since === null ? 0 : (performance.now() - since) / 1000;
  const name = nameOf(label, now.run);
  last(label === null ? `Item ${it.id}: you abstained` : `Item ${it.id} is ${name}`, it.id);
  if (view === "grid") { // it goes on at once; the server's word follows
    say(spoken);
    seen();
    it.said = { label };
    it.pending = (it.pending ?? 0) + 1;
    $("value-of-it").value = "";
    const next = [...now.items.keys()].map((i) => (chosen + 1 + i) % now.items.length).find((i) => !now.items[i].said);
    choose(next ?? chosen);
  } else {
    since = null;
    broken = false;
  }
  const body = { id: it.id, label, seconds };
  if (localStorage.name) body.annotator = localStorage.name;
  send("answer", body).then(restore);
  if ($("notice").dataset.kind === "lost" && $("notice").textContent) trouble(new Error("lost")); // one more
}

function skip() {
  const it = current();
  if (!labelling() || !it || busy) return;
  last(`Item ${it.id} comes again later`, it.id);
  shown = null;
  send("skip", { id: it.id }).then(restore);
}

function undo() {
  if (!now?.undo && !busy) return; // what is on its way to the server can be undone after it
  last("");
  const was = new Map(now.items.map((it) => [it.id, it]));
  send("undo", { nonce: crypto.randomUUID() }).then(() => {
    const back = now.items.findIndex((it) => !it.said && !(was.has(it.id) && !was.get(it.id).said));
    if (view === "grid" && back >= 0) choose(back);
    restore();
  });
}

function restore() { // after a refusal the same item is still there to be labelled
  if (view === "single" && since === null && !broken && now?.items.length && !busy && $("single").firstChild?.complete !== false) seen();
}

function toggleView() {
  view = view === "grid" ? "single" : "grid";
  sessionStorage.view = view;
  shown = null;
  since = null;
  delete $("stage").dataset.seen;
  chosen = 0;
  send("state");
}

function togglePredictions() {
  model = model === "shown" ? "hidden" : "shown";
  localStorage.predictions = model;
  if (!now) return;
  header(now, view, model);
  if (now.items.length) { if (view === "grid") many(); details(); }
  say(model === "shown" ? "What the model thinks is shown." : "What the model thinks is hidden.");
}

function help() {
  $("name").value = localStorage.name ?? "";
  $("help").showModal();
}

$("help").addEventListener("close", () => {
  const name = $("name").value.trim();
  if (!name || /^[\p{L}\p{N}_][\p{L}\p{N}_ .@+'-]{0,39}$/u.test(name)) localStorage.name = name;
  else notice("A name has letters, digits, spaces and . @ + ' - alone; yours was left as it was.");
});
$("grid").addEventListener("click", toggleView);
$("predictions").addEventListener("click", togglePredictions);
$("ask").addEventListener("click", help);
$("abstain").addEventListener("click", () => answer(null));
$("skip").addEventListener("click", skip);
$("undo").addEventListener("click", undo);
$("number").addEventListener("submit", (event) => {
  event.preventDefault();
  const written = $("value-of-it").value.trim(), text = written.replace(",", ".");
  if (/,\d{3}(?!\d)/.test(written))
    return notice(`The comma in ${written} may mean thousands: leave it out, or write a point for the decimals.`);
  if (text === "" || !Number.isFinite(Number(text))) return notice("Type a number, such as 3.5.");
  answer(Number(text));
});
$("find").addEventListener("input", () => {
  const wanted = $("find").value.trim().toLowerCase();
  for (const button of $("classes").children) button.hidden = !button.firstChild.textContent.toLowerCase().includes(wanted);
});
$("find").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  const found = [...$("classes").children].find((button) => !button.hidden);
  if (found && $("find").value.trim()) { found.click(); $("find").value = ""; $("find").dispatchEvent(new Event("input")); }
});

const columns = () => getComputedStyle($("many")).gridTemplateColumns.split(" ").length;
const ARROWS = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns(), ArrowDown: columns };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || $("help").open) return;
  const typing = event.target instanceof HTMLInputElement;
  if (typing && event.target.id !== "value-of-it") return;
  const key = event.key.toLowerCase();
  if (event.key in ARROWS && view === "grid" && labelling() && !typing) choose(chosen + ARROWS[event.key]());
  else if (key === " " && event.target instanceof HTMLButtonElement && event.target.matches(":focus-visible")) return;
  else if (key === " " && now?.run?.kind === "numbers" && $("value-of-it").value.trim())
    notice("Enter labels the item with this number; to abstain, empty the field first.");
  else if (key === " ") answer(null);
  else if (key === "s") skip();
  else if (key === "u") undo();
  else if (key === "g") toggleView();
  else if (key === "p") togglePredictions();
  else if (key === "?") help();
  else if (now?.run?.kind === "numbers" && !typing && /^[-+.,\d]$/.test(key)) return $("value-of-it").focus(); // and types it
  else {
    const label = typing ? -1 : now?.run?.classes.findIndex((each) => each.key && each.key === key) ?? -1;
    if (label < 0) return;
    answer(label);
  }
  event.preventDefault();
});

document.addEventListener("click", (event) => { // so that Space means the item again, and not the button
  if (event.detail > 0 && event.target instanceof Element) event.target.closest("button")?.blur();
});

addEventListener("beforeunload", (event) => { if (busy) event.preventDefault(); });
addEventListener("pagehide", () => {
  navigator.sendBeacon("/api/leave", new Blob([JSON.stringify({ session })], { type: "application/json" }));
});

if (localStorage.name === undefined) help();
claim().then(look);
