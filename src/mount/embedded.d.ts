/** A file that the build puts into the binary; the import gives its path. */
declare module "*.so.3" {
  const path: string;
  // biome-ignore lint/style/noDefaultExport: what an import with { type: "file" } gives
  export default path;
}
