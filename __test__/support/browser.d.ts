// Playwright's types name them. Those of the DOM would hold in all tests, and these run in Node.
declare interface Node {
  readonly nodeType: number;
}
declare interface HTMLElement extends Node {
  readonly tagName: string;
}
declare interface SVGElement extends Node {
  readonly tagName: string;
}
declare interface HTMLElementTagNameMap {
  readonly img: HTMLElement;
}
