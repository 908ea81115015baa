// Bundles the applications and the examples for React and Svelte, as a user's build does.

import { readFileSync } from "node:fs";
import { build } from "esbuild";
import { compile } from "svelte/compiler";

const svelte = {
  name: "svelte",
  setup({ onLoad }) {
    onLoad({ filter: /\.svelte$/ }, ({ path }) => ({
      contents: compile(readFileSync(path, "utf8"), { generate: "client" }).js.code,
    }));
  },
};

await build({
  entryPoints: ["react_app.jsx", "svelte_app.js", "react_example.jsx", "svelte_example.js"],
  bundle: true,
  format: "esm",
  jsx: "automatic",
  outdir: "built",
  plugins: [svelte],
  conditions: ["browser"],
  define: { "process.env.NODE_ENV": '"development"' },
});
