export default ['./main.mjs', './main.cjs'].map((entry) => ({
  entry,
  mode: 'production',
  target: 'node20',
  output: { filename: `${entry.slice(2)}.cjs` },
}));
