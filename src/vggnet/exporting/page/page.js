// The page of an exported network: it runs in this browser, by ONNX Runtime Web, and the photo stays here.

import { pixelsOf } from "./preprocess.js";
import { blobUrl, clear, fail, find, row, show, showClasses, startPage, text } from "./photos.js";

const TEXTS = {
  en: {
    private: "The network runs in this browser. Photos do not leave this device.",
    loading: "Loading the network ({megabytes} MB)…", ready: "The network is loaded.",
    missing: "The network cannot be loaded ({why}). Reload the page to try again.",
    unreadable: "This browser cannot read the image. Choose a JPEG or PNG file.",
    overflow: "The network gives no finite numbers for this image.",
  },
  zh: {
    private: "网络在此浏览器中运行，照片不会离开本设备。",
    loading: "正在加载网络（{megabytes} MB）……", ready: "网络已加载。",
    missing: "无法加载网络（{why}）。请重新加载页面再试。",
    unreadable: "此浏览器无法读取该图片。请选择 JPEG 或 PNG 文件。",
    overflow: "网络对这张图片的输出不是有限的数值。",
  },
};
const TOP = 5;

let latest = 0; // number of the last photo: earlier ones are dropped
let work = null; // what was asked last; one photo is computed at a time

// A file of the folder, asked for again if it has changed there.
async function get(path) {
  const response = await fetch(path, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  return response;
}

// The description of the network, and what computes: (pixels) -> outputs.
async function load() {
  try {
    const facts = await (await get("model.json")).json();
    find("name").textContent = document.title = facts.name;
    if (latest === 0) find("status").textContent = text("loading", { megabytes: Math.ceil(facts.bytes / 1e6) });
    const { env, InferenceSession, Tensor } = await import("./onnxruntime-web.js");
    env.wasm.numThreads = 1; // more need headers that most hosts of static pages do not send
    env.wasm.wasmPaths = { wasm: new URL("onnxruntime-web.wasm", import.meta.url).href };
    const file = new Uint8Array(await (await get("model.onnx")).arrayBuffer());
    const session = await InferenceSession.create(file, { executionProviders: ["wasm"] });
    const { crop, channels } = facts.preprocess;
    const run = async (pixels) => {
      const images = new Tensor("uint8", pixels, [1, crop, crop, channels]);
      return (await session.run({ images })).outputs.data;
    };
    if (latest === 0) find("status").textContent = text("ready");
    return { facts, run };
  } catch (error) {
    throw new Error(text("missing", { why: error.message }));
  }
}

// Let the browser draw, as computing blocks it.
function drawn() {
  return new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
}

async function predict(photo, number, network) {
  if (number !== latest) return;
  clear();
  const bitmap = await createImageBitmap(photo, { colorSpaceConversion: "none" }).catch(() => {
    throw new Error(text("unreadable"));
  });
  const { facts, run } = await network;
  await drawn();
  const outputs = await run(pixelsOf(bitmap, facts.preprocess));
  bitmap.close();
  if (number === latest) answer(facts.classes, probabilities(outputs), photo);
}

function probabilities(outputs) {
  const most = outputs.reduce((a, b) => Math.max(a, b));
  const parts = Array.from(outputs, (value) => Math.exp(value - most));
  const total = parts.reduce((a, b) => a + b);
  if (!Number.isFinite(total)) throw new Error(text("overflow"));
  return parts.map((part) => part / total);
}

function answer(classes, shares, photo) {
  const best = classes.map((_, place) => place).sort((a, b) => shares[b] - shares[a]).slice(0, TOP);
  const [names, values] = [classes, shares].map((all) => best.map((place) => all[place]));
  find("picture").src = blobUrl(photo);
  find("picture").alt = text("photo");
  showClasses(names.map((name, place) => row("div", name, values[place])), names, values);
}

function choose(photo) {
  const number = ++latest;
  work = work.then(() => predict(photo, number, network)).catch((error) => {
    if (number === latest) fail(error.message);
  });
}

startPage(TEXTS, choose);
const network = load();
work = network.catch((error) => fail(error.message));
