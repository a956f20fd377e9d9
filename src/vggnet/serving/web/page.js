// The page of the server: sends a photo to /predict, /explain and /similar, and shows the answers.

import { blobUrl, clear, fail, find, percent, row, show, showClasses, startPage, text } from "./photos.js";

const TEXTS = {
  en: {
    model: "Model", key: "Access key", use: "Use", camera: "Use the camera", take: "Take the photo",
    stop: "Close the camera", heatmap: "Heatmap", press: "Choose a class to see what counts for it.",
    similar: "Most similar images", private: "Photos go to this server alone and are not stored.", found: "Done.",
    picture: "The photo as the model sees it", caption: "What counts for “{name}” ({layer})",
    needsKey: "This server asks for an access key.", offline: "The server cannot be reached.",
    noCamera: "The camera cannot be used: {why}", neighbor: "similarity {share}",
    none: "This model has no classes. Choose another one.",
  },
  zh: {
    model: "模型", key: "访问密钥", use: "使用", camera: "使用摄像头", take: "拍照",
    stop: "关闭摄像头", heatmap: "热力图", press: "选择一个类别，查看图中支持它的区域。",
    similar: "最相似的图片", private: "照片只发送到这台服务器，不会保存。", found: "完成。",
    picture: "模型看到的照片", caption: "支持“{name}”的区域（{layer}）",
    needsKey: "这台服务器需要访问密钥。", offline: "无法连接服务器。",
    noCamera: "无法使用摄像头：{why}", neighbor: "相似度 {share}",
    none: "这个模型没有类别，请选择其他模型。",
  },
};
const TOP = 5;
const NEIGHBORS = 8;

let facts = null; // of /models
let photo = null; // the file that is shown
let key = "";
let latest = 0; // number of the last photo: answers for earlier ones are dropped
let camera = null; // a stream

// The response of an operation, whose error is raised as its own message.
async function ask(path, options = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Error(text("offline"));
  }
  if (response.status === 401) {
    show("access", true);
    find("key").focus();
    throw new Error(text("needsKey"));
  }
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Error(body.error ?? `${response.status} ${response.statusText}`);
  }
  return response;
}

async function send(operation, parameters) {
  const form = new FormData();
  form.append("image", photo, "photo");
  const query = new URLSearchParams(parameters);
  return (await ask(`${operation}?${query}`, { method: "POST", body: form })).json();
}

function chosen() {
  return facts.models.find((model) => model.name === find("model").value);
}

async function start() {
  facts = await (await ask("models")).json();
  show("access", false);
  show("error", false);
  find("model").replaceChildren(...facts.models.map(({ name }) => new Option(name, name)));
}

// Everything for the photo and the model that are chosen.
async function run() {
  if (!photo || !facts) return;
  const number = ++latest;
  clear();
  for (const id of ["heatmap", "blend", "box", "similar"]) show(id, false);
  find("caption").textContent = "";
  try {
    const model = chosen();
    if (model.num_classes === 0) throw new Error(text("none"));
    const answer = await send("predict", { model: model.name, top: TOP });
    if (number !== latest) return;
    if (answer.predictions) {
      const { classes, probabilities } = answer.predictions[0];
      showClasses(classes.map((name, place) => choice(name, probabilities[place])), classes, probabilities);
      show("press", true);
      await explain(null, number);
    } else {
      showFound(answer.found[0]);
    }
    if (number === latest && facts.similar === model.name) await showSimilar(number);
  } catch (error) {
    if (number === latest) fail(error.message);
  }
}

// A class that is explained when it is chosen.
function choice(name, probability) {
  const item = row("button", name, probability);
  const button = item.firstChild;
  button.type = "button";
  button.dataset.name = name;
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => explain(name, latest).catch((error) => fail(error.message)));
  return item;
}

async function explain(target, number) {
  const parameters = { model: chosen().name, ...(target === null ? {} : { target }) };
  const [found] = (await send("explain", parameters)).explanations;
  if (number !== latest) return;
  find("picture").src = `data:image/png;base64,${found.picture}`;
  find("picture").alt = text("picture");
  find("heatmap").src = `data:image/png;base64,${found.heatmap}`;
  find("caption").textContent = text("caption", found);
  for (const button of find("classes").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.name === found.name));
  }
  show("heatmap", true);
  show("blend", true);
  blend();
}

// The answer of a model with another task: its values, and its box on the photo if it has one.
function showFound(found) {
  const picture = find("picture");
  picture.onload = () => {
    if (!found.box) return;
    const [left, top, right, bottom] = found.box;
    const across = (value) => `${(100 * value) / picture.naturalWidth}%`;
    const down = (value) => `${(100 * value) / picture.naturalHeight}%`;
    Object.assign(find("box").style, {
      left: across(left), top: down(top), width: across(right - left), height: down(bottom - top),
    });
    show("box", true);
  };
  picture.src = blobUrl(photo);
  picture.alt = text("photo");
  if (found.label) find("classes").replaceChildren(choice(found.label, found.score));
  show("press", false);
  show("result", true);
  find("status").textContent = text("found");
}

async function showSimilar(number) {
  const [matches] = (await send("similar", { top: NEIGHBORS })).matches;
  const items = await Promise.all(matches.map(neighbor));
  if (number !== latest) return;
  find("neighbors").replaceChildren(...items);
  show("similar", true);
}

async function neighbor({ name, position, similarity }) {
  const item = document.createElement("li");
  const image = document.createElement("img");
  image.alt = name;
  const label = document.createElement("p");
  label.textContent = `${name} · ${text("neighbor", { share: percent(similarity) })}`;
  try {
    image.src = blobUrl(await (await ask(`similar/${position}`)).blob());
    item.append(image);
  } catch {
    // its file is gone: the name says which one it was
  }
  item.append(label);
  return item;
}

function blend() {
  find("heatmap").style.opacity = find("opacity").value / 100;
}

function choose(file) {
  photo = file;
  run();
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  show("live", false);
  show("camera", true);
  find("camera").focus();
}

async function startCamera() {
  try {
    camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    fail(text("noCamera", { why: error.message }));
    return;
  }
  find("take").disabled = true; // until there is a picture
  find("video").srcObject = camera;
  show("camera", false);
  show("live", true);
  find("stop").focus();
}

function takePhoto() {
  const video = find("video");
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    stopCamera();
    choose(blob);
  }, "image/png");
}

startPage(TEXTS, choose);
show("camera", Boolean(navigator.mediaDevices?.getUserMedia));
find("model").addEventListener("change", run);
find("opacity").addEventListener("input", blend);
find("camera").addEventListener("click", startCamera);
find("video").addEventListener("loadeddata", () => {
  find("take").disabled = false;
});
find("take").addEventListener("click", takePhoto);
find("stop").addEventListener("click", stopCamera);
find("access").addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("key").value;
  start().then(run, (error) => fail(error.message));
});
start().catch((error) => fail(error.message));
