// The control WebSocket: who this page is, who controls the VM, the lights of its keyboard. Its messages are those of control.rs.

/** A WebSocket's address beside this page. */
export function address(path) {
  const url = new URL(path, location.href);
  url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
  url.hash = '';
  return url.href;
}

export class Control {
  /** Connects. `hears` has a function for each message by its name, and `closed`. */
  constructor(token, hears) {
    this.socket = new WebSocket(address('control'));
    this.socket.onopen = () => this.say(token ? { token } : {});
    this.socket.onmessage = (event) => {
      const { is, ...news } = JSON.parse(event.data);
      hears[is]?.(news);
    };
    this.socket.onclose = () => hears.closed();
  }

  say(what) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(what));
  }

  /** Nothing is heard any more, not even its end. */
  close() {
    this.socket.onmessage = null;
    this.socket.onclose = null;
    this.socket.close();
  }
}

const TOKEN = 'beamsplit.token';

/** The token of this tab. One in the address comes first, and goes from there before anybody can see or send it. */
export function findToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  if (given !== null) {
    history.replaceState(history.state, '', location.pathname + location.search);
    keepToken(given);
  }
  return sessionStorage.getItem(TOKEN);
}

export function keepToken(token) {
  if (token) sessionStorage.setItem(TOKEN, token);
  else sessionStorage.removeItem(TOKEN);
}
