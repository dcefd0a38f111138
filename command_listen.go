package injecttoken

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// listen waits for the browser at a redirect URI on a port of this machine (RFC
// 8252, section 7.3), where nobody else does. The function that it returns ends
// that; it is nil where there is nothing to listen at.
func (r *authorizing) listen(ctx context.Context) (stop func()) {
	u, err := url.Parse(r.RedirectURI)
	if err != nil || u.Scheme != "http" || u.Port() == "" || !tokensource.IsLoopback(u.Hostname()) {
		return nil
	}
	listener, err := net.Listen("tcp", u.Host)
	if err != nil {
		return nil
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		path := u.Path
		if path == "" {
			path = "/"
		}
		if req.URL.Path != path || req.Method != http.MethodGet || !req.URL.Query().Has("state") {
			http.NotFound(w, req)
			return
		}
		r.land(ctx, w, req.URL.RawQuery)
	})}
	go func() { _ = server.Serve(listener) }()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = server.Shutdown(ctx) // the page is to arrive
	}
}

// land sends the browser's answer on, and shows what came of it. It may be that to
// another command, which has found the port taken: its state tells. Who waits for it
// hears of it when it asks.
func (r *authorizing) land(ctx context.Context, w http.ResponseWriter, query string) {
	done := new(authorization)
	name := r.name
	if parameters, err := url.ParseQuery(query); err == nil {
		if of := sourceOf(parameters.Get("state")); checkSourceName(of) == nil {
			name = of
		}
	}
	view := callbackView{Source: name, Command: authorizeCommand(name)}
	_, err := r.admin.ask(ctx, http.MethodPost, sourcePath(name)+"/complete", completion{Code: query}, done)
	if err != nil {
		view.Problem = sentence(err.Error())
		view.write(w, http.StatusBadRequest)
		return
	}
	view.Granted = done
	view.write(w, http.StatusOK)
}
