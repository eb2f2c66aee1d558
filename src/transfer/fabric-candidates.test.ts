import { expect, test } from "bun:test";
import { inTurn } from "./fabric-candidates.ts";

const candidates = [
  { provider: "verbs", source: "mlx5_0", domain: "", rank: 0 },
  { provider: "verbs", source: "mlx5_1", domain: "", rank: 0 },
  { provider: "verbs", source: "mlx5_2", domain: "", rank: 1 },
  { provider: "verbs;ofi_rxm", source: null, domain: "", rank: 2 },
];
const names = (worker: number) => inTurn(candidates, worker).map(({ source }) => source);

test("the best are used in turn, the others stay behind them", () => {
  expect(names(0)).toEqual(["mlx5_0", "mlx5_1", "mlx5_2", null]);
  expect(names(1)).toEqual(["mlx5_1", "mlx5_0", "mlx5_2", null]);
  expect(names(2)).toEqual(names(0));
  expect(inTurn([], 3)).toEqual([]);
});
