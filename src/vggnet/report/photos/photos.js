// What the pages that show a photo and its classes share: texts, bars, and the ways to give a photo.

const TEXTS = {
  en: {
    hint: "Drop a photo here, paste one, or", choose: "Choose a photo", classes: "Classes", working: "Computing…",
    done: "Done: {name}, {share}.", photo: "The photo", noPhoto: "That is no image file.",
  },
  zh: {
    hint: "将照片拖到此处、粘贴，或", choose: "选择照片", classes: "类别", working: "正在计算……",
    done: "完成：{name}，{share}。", photo: "照片", noPhoto: "这不是图片文件。",
  },
};

const language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
const urls = []; // of blobs, to be released

export const find = (id) => document.getElementById(id);
export const percent = (share) =>
  new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 1 }).format(share);

export function text(name, values = {}) {
  return TEXTS[language][name].replace(/\{(\w+)\}/g, (_, field) => values[field]);
}

export function show(id, shown) {
  find(id).hidden = !shown;
}

export function fail(message) {
  find("status").textContent = "";
  find("error").textContent = message;
  show("error", true);
}

export function blobUrl(blob) {
  const url = URL.createObjectURL(blob);
  urls.push(url);
  return url;
}

// Forget the last photo.
export function clear() {
  urls.splice(0).forEach((url) => URL.revokeObjectURL(url));
  show("error", false);
  show("result", false);
  find("classes").replaceChildren();
  find("status").textContent = text("working");
}

// An item of the list of classes; `tag` says what is inside, "div" or "button".
export function row(tag, name, probability) {
  const spans = { bar: "", name, share: percent(probability) };
  const inside = document.createElement(tag);
  for (const [kind, content] of Object.entries(spans)) {
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = content;
    inside.append(span);
  }
  inside.querySelector(".bar").style.width = `${100 * probability}%`;
  const item = document.createElement("li");
  item.append(inside);
  return item;
}

export function showClasses(rows, classes, probabilities) {
  find("classes").replaceChildren(...rows);
  show("result", true);
  find("status").textContent = text("done", { name: classes[0], share: percent(probabilities[0]) });
}

// The first image of what was dropped or pasted.
function imageOf(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/") || file.type === "");
}

// Fill in the texts, these and `own`, and call `choose` with each photo that is chosen, dropped or pasted.
export function startPage(own, choose) {
  Object.assign(TEXTS[language], own[language]);
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  find("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) choose(file);
    event.target.value = ""; // the same file may be chosen again
  });
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      find("source").classList.add("over");
    });
  }
  document.addEventListener("dragleave", () => find("source").classList.remove("over"));
  for (const [kind, transfer] of [["drop", "dataTransfer"], ["paste", "clipboardData"]]) {
    document.addEventListener(kind, (event) => {
      if (kind === "paste" && !event[transfer]?.files.length) return;
      event.preventDefault();
      find("source").classList.remove("over");
      const image = imageOf(event[transfer]);
      image ? choose(image) : fail(text("noPhoto"));
    });
  }
}
