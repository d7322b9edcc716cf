import { write } from "sla-profiler:base/log@0.1.0";

// --- What every JavaScript plugin needs; leave as it is. -----------------------------------------------------------

// There is no console in the sandbox: calling QuickJS's own one would trap.
const say = (level) => (...parts) => write(level, parts.map(String).join(" "));
globalThis.console = { log: say("info"), info: say("info"), debug: say("debug"), warn: say("warn"), error: say("error") };

// An exception that nobody catches is a bare trap; this makes it an error that the user gets to read.
const guarded = (name, call) => (...args) => {
  try {
    const answer = call(...args);
    if (answer == null) throw new TypeError("it answered nothing"); // else: a bare trap
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

