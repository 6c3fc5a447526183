// Buckets of requests put together, so that a chart has few points with much behind each.

import { wilson } from "./dom.js";

const MOST = 40;
const sum = (items, of) => items.reduce((total, item) => total + (of(item) ?? 0), 0);

/** The buckets, or as few of twice, three times … their length as a chart has points for. */
export function pooled(buckets, seconds) {
  if (!buckets.length) return { buckets, seconds };
  const number = ({ start }) => Math.round(start / seconds);
  const times = Math.ceil((number(buckets.at(-1)) - number(buckets[0]) + 1) / MOST);
  if (times === 1) return { buckets, seconds };
  const groups = Map.groupBy(buckets, (bucket) => Math.floor(number(bucket) / times));
  return { buckets: [...groups].map(([at, group]) => together(group, at * times * seconds)), seconds: times * seconds };
}

function together(group, start) {
  const rewarded = sum(group, (bucket) => bucket.rewarded), reward = sum(group, (bucket) => bucket.success * bucket.rewarded);
  const success = rewarded ? reward / rewarded : null, ends = wilson(reward, rewarded);
  const regret = rewarded ? sum(group, (bucket) => bucket.regret * bucket.rewarded) / rewarded : null;
  const counts = ["requests", "waiting", "unanswered", "dropped", "explored"].map((name) => [name, sum(group, (bucket) => bucket[name])]);
  return {
    start, rewarded, success, success_interval: ends, regret,
    regret_interval: ends && [regret + success - ends[1], regret + success - ends[0]],
    cells: group.flatMap((bucket) => bucket.cells),
    ...Object.fromEntries(counts),
  };
}
