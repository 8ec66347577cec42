// Vite's types name it; Node 20, whose types these are, has none.
declare interface WebSocket {
  readonly url: string;
}
