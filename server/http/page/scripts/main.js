const LOOK_MS = 1000;
const MOST_MS = 10000;
const WALK_MS = 30000;
let registered = null;
let walkedAt = performance.now();

/** Shows what the server tells of itself, again and again while the page is seen. */
async function watchServer() {
  let wait = LOOK_MS;
  for (;;) {
    await seen();
    try {
      show(await get("status"));
      wait = LOOK_MS;
      $("notice").hidden = true;
    } catch (error) {
      wait = Math.max(Math.min(2 * wait, MOST_MS), error.waitMs || 0);
      notice(error);
      if (error.status === 403) {
        return;
      }
    }
    await pause(wait);
  }
}

function show(status) {
  showServer(status);
  showNow(status);
  showSlots(status);
  followChanges(status.load?.registered_adapters || 0);
}

/** Has all adapters read again where there are more or fewer: seldom, as there may be thousands. */
function followChanges(now) {
  registered ??= now;
  if (now !== registered && performance.now() - walkedAt > WALK_MS) {
    registered = now;
    walkedAt = performance.now();
    pages.age();
  }
}

function notice(error) {
  say($("notice"), error.message);
  $("notice").hidden = false;
  if (error.status === 403) {
    say($("notice"), "This token may not read what the server does; the playground is there.");
    for (const id of ["now", "slots", "adapters"]) {
      $(id).hidden = true;
      document.querySelector(`nav [href="#${id}"]`).hidden = true;
    }
  }
}

$("sign-out").hidden = !TOKEN;
$("sign-out").addEventListener("click", leave);
startAdapters();
startPlayground();
watchServer();
