// What stands around the items: how far it is, how good the model has become, and what there is to wait for.

import { $, curve, make, measured, percent } from "/draw.js";

const PHASES = {
  fit: "The model is learning", score: "The model looks for what to ask next", race: "The model looks for what to ask next",
  prefilter: "The model looks for what to ask next", evaluate: "The model is being measured",
};

const drawn = new Map(); // what is drawn in each place: anew only when it changes, for screen readers tell every change
export function draw(place, what, how) {
  const key = JSON.stringify(what);
  if (drawn.get(place) === key) return;
  drawn.set(place, key);
  $(place).replaceChildren(...how());
}

export function header(now, view, model) {
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
    draw("spark", points, () => (points.length > 1 ? [curve(points, measure, 84, 24, false)] : []));
  }
  $("grid").setAttribute("aria-pressed", view === "grid");
  $("predictions").setAttribute("aria-pressed", model === "shown");
  $("undo").disabled = !now.undo;
  document.title = now.doing === "labelling" ? `${batch.answered} of ${batch.size} · activebdl` : `${now.doing} · activebdl`;
}

export function pause(now) {
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
  draw("curve", now.curve, () => (now.curve.length > 1 ? [curve(now.curve, now.measure, 420, 150, true),
    make("figcaption", { textContent: `${now.measure === "rmse" ? "RMSE" : "Accuracy"} on the test set` })] : []));
}
