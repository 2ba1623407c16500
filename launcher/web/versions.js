// Fills the page from /api/builds, now and every ten seconds. All text comes from studios: it is set as text, never as HTML.

const interval_ms = 10_000;
const builds = document.getElementById("builds");
const template = document.getElementById("build");

const element = (name, text, kind) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
};

const time = (seconds) => {
  const made = element("time", new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " "));
  made.dateTime = new Date(seconds * 1000).toISOString();
  made.title = "UTC";
  return made;
};

const channel = (of) => {
  const card = element("div", undefined, "channel");
  card.dataset.testid = `channel-${of.name}`;
  card.append(element("h3", of.name), element("p", of.version, "version"));
  const whole = of.rollout_percent === 100;
  card.append(element("p", whole ? "for everyone" : `for ${of.rollout_percent} %, ${of.previous ? `the others have ${of.previous}` : "nothing for the others"}`, "soft"));
  const bar = element("progress");
  bar.max = 100;
  bar.value = of.rollout_percent;
  bar.setAttribute("aria-label", `Rollout of ${of.version} in ${of.name}`);
  card.append(bar);
  return card;
};

const row = (release, channels) => {
  const made = element("tr");
  const cell = (content, kind) => {
    const of = element("td", undefined, kind);
    of.append(content);
    made.append(of);
    return of;
  };
  const version = cell(element("span", release.version, "version"));
  for (const of of channels.filter((of) => of.version === release.version)) version.append(element("span", of.name, "tag"));
  cell(time(release.published), "when");
  cell(element("p", release.notes || "–", release.notes ? "notes" : "faint"));
  cell(release.deltas.map((delta) => delta.from).join(", ") || "–", "num");
  cell(release.uploaded_by ?? "–", release.uploaded_by ? "" : "faint");
  const manifest = cell(element("a", release.manifest.blake3.slice(0, 12)), "mono").firstChild;
  manifest.href = `/manifests/${release.manifest.blake3}`;
  manifest.title = `${release.manifest.blake3}, ${release.manifest.size.toLocaleString("en")} bytes`;
  return made;
};

const show = (all) => {
  builds.replaceChildren(...all.map((of) => {
    const made = template.content.cloneNode(true);
    made.querySelector("section").dataset.testid = `build-${of.client_id}`;
    made.querySelector("h2").textContent = of.client_id;
    made.querySelector(".channels").append(...of.channels.map(channel));
    made.querySelector("tbody").append(...[...of.releases].reverse().map((release) => row(release, of.channels)));
    made.querySelector(".gone").textContent = of.removed
      .map((gone) => `${gone.version} was removed by ${gone.removed_by}; its files stay until ${new Date(gone.files_stay_until * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC.`)
      .join(" ");
    return made;
  }));
  if (all.length === 0) {
    builds.append(element("p", "Nothing is published yet. `vsekai version upload` does it.", "soft pad"));
  }
  const versions = all.reduce((sum, of) => sum + of.releases.length, 0);
  const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
  document.getElementById("summary").textContent = `${count(all.length, "build")}, ${count(versions, "version")}`;
};

let shown = "";
const load = async () => {
  const link = document.getElementById("link");
  try {
    const answer = await fetch("/api/builds");
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const text = await answer.text();
    link.dataset.level = "good";
    // An unchanged page keeps its selection and its place.
    if (text !== shown) show(JSON.parse(text).builds);
    shown = text;
  } catch (error) {
    link.dataset.level = "bad";
    shown = "";
    document.getElementById("summary").textContent = `the service does not answer: ${error.message}`;
  }
  setTimeout(load, interval_ms);
};
load();
