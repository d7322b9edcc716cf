import { write } from "sla-profiler:base/log@0.1.0";

// --- What every JavaScript plugin needs; leave as it is. -----------------------------------------------------------

// There is no console in the sandbox: calling QuickJS's own one would trap.
const say = (level) => (...parts) => write(level, parts.map(String).join(" "));
globalThis.console = { log: say("info"), info: say("info"), debug: say("debug"), warn: say("warn"), error: say("error") };

// What of an answer does not fit the contract, if anything. A shape is a value of the right types; the list of one stands
// for lists of any length, and a Map says which shape `val` has by `tag`.
const misfit = (answer, shape, at = "the answer") => {
  const first = (parts) => parts.reduce((found, [of, like, name]) => found ?? misfit(of, like, name), undefined);
  if (Array.isArray(shape)) {
    return Array.isArray(answer) ? first(answer.map((item, i) => [item, shape[0], `${at}[${i}]`])) : `${at} is no list: ${answer}`;
  }
  if (typeof shape !== "object") return typeof answer === typeof shape ? undefined : `${at} is no ${typeof shape}: ${answer}`;
  if (answer === null || typeof answer !== "object") return `${at} is no object: ${answer}`;
  if (!(shape instanceof Map)) return first(Object.keys(shape).map((key) => [answer[key], shape[key], `${at}.${key}`]));
  const { tag, val } = answer;
  return shape.has(tag) ? misfit(val, shape.get(tag), `${at}.val`) : `${at}.tag is none of ${[...shape.keys()].join(", ")}: ${tag}`;
};

const DESCRIPTION = { name: "", version: "", summary: "", settings: [{ name: "", default: "", help: "" }] };

// An exception that nobody catches is a bare trap, as is an answer of another shape; this makes both an error that the user
// gets to read.
const guarded = (name, call, shape) => (...args) => {
  try {
    const answer = call(...args);
    const wrong = misfit(answer, shape);
    if (wrong) throw new TypeError(wrong);
    return answer;
  } catch (thrown) {
    if (thrown?.tag) throw thrown; // an error of the contract, thrown on purpose
    const place = String(thrown?.stack ?? "").trim().split("\n")[0].trim();
    const said = thrown?.payload ? JSON.stringify(thrown.payload) : thrown; // payload: a call of the host said no
    const message = `${name}: ${said} ${place}`;
    write("error", message);
    throw { tag: "other", val: message };
  }
};

// --- The plugin. ---------------------------------------------------------------------------------------------------

