package injecttoken

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// tokenTransport is Caddy's HTTP transport for requests that belong to no
// caller. It needs a replacer of its own. Were there a caller's request in the
// context, it would dial that one's upstream.
type tokenTransport struct{ *reverseproxy.HTTPTransport }

func (t tokenTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	dial := new(dialTrace)
	ctx := context.WithValue(req.Context(), caddy.ReplacerCtxKey, caddy.NewReplacer())
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		DNSDone:     func(info httptrace.DNSDoneInfo) { dial.failed(info.Err) },
		ConnectDone: func(_, _ string, err error) { dial.failed(err) },
	})
	resp, err := t.HTTPTransport.RoundTrip(req.WithContext(ctx))
	return resp, dial.explain(err)
}

// dialTrace keeps why a connection could not be made: Caddy's DialError does
// not let its cause be seen.
type dialTrace struct {
	mu    sync.Mutex // guards cause; a dial may outlive its request
	cause error
}

func (d *dialTrace) failed(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cause == nil {
		d.cause = err
	}
}

// explain returns err with the cause in the place of a DialError.
func (d *dialTrace) explain(err error) error {
	if _, ok := errors.AsType[reverseproxy.DialError](err); !ok {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cause == nil {
		return err
	}
	if proxy, ok := errors.AsType[*net.OpError](err); ok { // Op is "proxyconnect"
		return &net.OpError{Op: proxy.Op, Net: proxy.Net, Err: d.cause}
	}
	return d.cause
}
