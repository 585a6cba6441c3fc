// One page: it asks every second what there is, shows it, and sends what a person says of it. An answer is done when
// the server has said so; until then it is sent again, and sending it twice changes nothing.

import { $, belief, curve, item, make, measured, nameOf, percent } from "/draw.js";

const EVERY = 1000; // milliseconds between two looks
const PHASES = {
  fit: "The model is learning", score: "The model looks for what to ask next", race: "The model looks for what to ask next",
  prefilter: "The model looks for what to ask next", evaluate: "The model is being measured",
};
const session = (sessionStorage.session ||= crypto.randomUUID());

let now = null; // what the server told last
let view = sessionStorage.view === "grid" ? "grid" : "single";
let chosen = 0; // in the grid
let model = localStorage.predictions; // "shown" or "hidden"; the run's setting until P is pressed
let since = null; // when the item appeared; null until it can be seen
let epoch = 0; // what was asked before something was sent is out of date
let busy = 0;
let calm; // a timer

const current = () => now?.items.at(view === "grid" ? chosen : 0) ?? null;
const labelling = () => now?.doing === "labelling" || (now?.doing === "working" && now.items.length > 0);
const later = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// --- talking to the server

class Refused extends Error {}

async function call(verb, body = {}) {
  const response = await fetch(`/api/${verb}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ session, view, ...body }),
  });
  if (response.status === 503) throw new TypeError("busy");
  const told = await response.json().catch(() => ({ error: "The server has failed." }));
  if (told.error) throw new Refused(told.error);
  return told;
}

async function look() {
  const asked = epoch;
  try {
    const told = await call("state");
    if (asked === epoch && !busy) take(told);
    else connected();
  } catch (error) {
    trouble(error);
  }
  setTimeout(look, ["done", "stopped"].includes(now?.doing) ? 5 * EVERY : EVERY);
}

let sending = Promise.resolve();
function send(verb, body) { // one after the other, in the order in which keys were pressed
  epoch++;
  busy++;
  sending = sending.then(async () => {
    for (;;) {
      try {
        const told = await call(verb, body);
        busy--;
        if (!busy) take(told);
        return;
      } catch (error) {
        trouble(error);
        if (error instanceof Refused) { busy--; return; }
        await later(EVERY);
      }
    }
  });
  return sending;
}

function trouble(error) {
  const lost = "Connection lost, retrying. Your labels are safe.";
  if (error instanceof Refused) notice(error.message, "error");
  else if (!["done", "stopped"].includes(now?.doing)) notice(lost, "lost");
}

function connected() {
  if (["lost", "error"].includes($("notice").dataset.kind)) notice("");
}

function notice(text, kind = "calm") {
  clearTimeout(calm);
  $("notice").dataset.kind = kind;
  if ($("notice").textContent !== text) $("notice").textContent = text;
  $("notice").hidden = !text;
  if (kind === "calm" && text) calm = setTimeout(() => notice(""), 6000);
}

// --- showing

function take(told) {
  const before = now;
  now = told;
  model ??= now.settings.predictions;
  connected();
  if (now.notice) notice(now.notice);
  if (before?.run?.round !== now.run?.round) $("last").textContent = "";
  if (chosen >= now.items.length) chosen = Math.max(0, now.items.length - 1);
  $("main").dataset.doing = now.doing;
  if (view === "grid" && !same(before, now)) firstOpen();
  header();
  items(before);
  pause();
}

const shape = (state) => JSON.stringify(state?.items.map((it) => [it.id, it.said, it.again]));
const same = (a, b) => a !== null && JSON.stringify(a.items.map((it) => it.id)) === JSON.stringify(b.items.map((it) => it.id));

function header() {
  const { run, batch, curve: points, measure } = now;
  $("round").textContent = run ? (run.round < 0 ? "Validation" : `Round ${run.round}`) : "";
  $("count").textContent = run ? `${batch.answered} of ${batch.size}` : "";
  $("bar").max = batch.size || 1;
  $("bar").value = batch.answered;
  $("labels").textContent = run ? (run.budget ? `${run.labels} of ${run.budget}` : run.labels) : "–";
  $("measured").hidden = !points.length;
  if (points.length) {
    $("measure").textContent = measure === "rmse" ? "RMSE" : "Accuracy";
    $("value").textContent = measured(measure, points.at(-1)[1]);
    $("spark").replaceChildren(...(points.length > 1 ? [curve(points, measure, 84, 24, false)] : []));
  }
  $("grid").setAttribute("aria-pressed", view === "grid");
  $("predictions").setAttribute("aria-pressed", model === "shown");
  $("undo").disabled = !now.undo;
  document.title = now.doing === "labelling" ? `${batch.answered} of ${batch.size} · activebdl` : `${now.doing} · activebdl`;
}

function items(before) {
  const has = now.items.length > 0;
  for (const id of ["stage", "side"]) $(id).hidden = !has;
  if (!has) { since = null; shown = null; return; }
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
  delete $("stage").dataset.seen;
  $("single").replaceChildren(item(it, `Item ${it.id}`, seen));
  if (now.run.kind !== "classes") { $("value-of-it").value = ""; $("value-of-it").focus({ preventScroll: true }); }
  say(`Item ${it.id}${it.again ? ", once more" : ""}. ${now.batch.answered} of ${now.batch.size} are labelled.`);
}

function seen() {
  since = performance.now();
  $("stage").dataset.seen = current()?.id ?? ""; // for whoever waits for it
}

let drawn = new Map(); // thumbnails by id
function many() {
  $("many").hidden = false;
  $("single").hidden = true;
  const key = `grid ${chosen} ${model} ${shape(now)}`;
  if (shown === key) return;
  if (!shown?.startsWith("grid")) { drawn = new Map(); seen(); }
  shown = key;
  const old = drawn;
  drawn = new Map();
  const thumbs = now.items.map((it, i) => {
    const thumb = old.get(it.id) ?? thumbnail(it);
    drawn.set(it.id, thumb);
    const guess = model === "shown" && it.model?.top ? it.model.top[0] : null;
    const text = it.said ? [make("span", { textContent: nameOf(it.said.label, now.run) }), "✓"]
      : guess ? [make("span", { textContent: `${now.run.classes[guess[0]].name} ?` }), percent(guess[1])] : [];
    thumb.lastChild.replaceChildren(...text);
    thumb.classList.toggle("said", Boolean(it.said));
    thumb.setAttribute("aria-selected", i === chosen);
    thumb.setAttribute("aria-label", `Item ${it.id}` + (it.said ? `, ${nameOf(it.said.label, now.run)}` : ", open"));
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
  drawn.get(now.items[i].id).focus();
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
  if (it.model) $("belief").replaceChildren(...belief(it.model, now.run));
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

function pause() {
  const waits = now.items.length === 0;
  $("pause").hidden = !waits;
  if (!waits) return;
  const { doing, phase, share, run, batch } = now;
  const told = {
    waiting: ["The run is getting ready", "The first items will appear here."],
    working: [PHASES[phase] ?? "The model is learning", "The next batch will appear here by itself."],
    labelling: ["Nothing left to do here", batch.pages > 1 ? "The last items of this batch are open in other browsers." : "The batch is on its way to the model."],
    done: ["All done", `${run?.labels ?? 0} labels are in the journal. You may close this page.`],
    stopped: ["The run has stopped", "Your labels are safe. When it is resumed, this page goes on by itself."],
  }[doing];
  for (const [id, text] of [["happens", told[0]], ["explains", told[1]]])
    if ($(id).textContent !== text) $(id).textContent = text;
  $("share").hidden = doing !== "working";
  $("percent").textContent = doing === "working" && share !== null ? percent(share) : "";
  if (share === null) $("share").removeAttribute("value"); else $("share").value = share;
  $("share").setAttribute("aria-valuetext", share === null ? "under way" : percent(share));
  if (now.curve.length > 1)
    $("curve").replaceChildren(curve(now.curve, now.measure, 420, 150, true), make("figcaption", { textContent: `${now.measure === "rmse" ? "RMSE" : "Accuracy"} on the test set` }));
  else $("curve").replaceChildren();
}

function say(text) { $("live").textContent = text; }

// --- what a person does

function answer(label) {
  const it = current();
  if (!labelling() || !it || (view === "single" && (busy || since === null))) return;
  const seconds = since === null ? 0 : (performance.now() - since) / 1000;
  const name = nameOf(label, now.run);
  $("last").textContent = label === null ? `Item ${it.id}: you abstained` : `Item ${it.id} is ${name}`;
  say($("last").textContent);
  if (view === "grid") { // it goes on at once; the server's word follows
    seen();
    it.said = { label };
    const next = [...now.items.keys()].map((i) => (chosen + 1 + i) % now.items.length).find((i) => !now.items[i].said);
    choose(next ?? chosen);
  } else since = null;
  const body = { id: it.id, label, seconds };
  if (localStorage.name) body.annotator = localStorage.name;
  send("answer", body).then(restore);
}

function skip() {
  const it = current();
  if (!labelling() || !it || busy) return;
  $("last").textContent = `Item ${it.id} comes again later`;
  shown = null;
  send("skip", { id: it.id }).then(restore);
}

function undo() {
  if (!now?.undo && !busy) return; // what is on its way to the server can be undone after it
  $("last").textContent = "";
  const was = new Map(now.items.map((it) => [it.id, it]));
  send("undo").then(() => {
    const back = now.items.findIndex((it) => !it.said && !(was.has(it.id) && !was.get(it.id).said));
    if (view === "grid" && back >= 0) choose(back);
    restore();
  });
}

function restore() { // after a refusal the same item is still there to be labelled
  if (view === "single" && since === null && now?.items.length && !busy && $("single").firstChild?.complete !== false) seen();
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
  header();
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
  const text = $("value-of-it").value.trim().replace(",", ".");
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

addEventListener("pagehide", () => {
  navigator.sendBeacon("/api/leave", new Blob([JSON.stringify({ session })], { type: "application/json" }));
});

if (localStorage.name === undefined) help();
look();
