package injecttoken

import (
	_ "embed"
	"errors"
	"html/template"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// Callback is the landing page of the redirect_uri of token sources: the provider
// sends the person's browser here with a code, which is exchanged for the token.
//
// It takes the answer to any authorization that was begun on a node with the same
// storage, whatever path and host the browser used: it may stand behind another
// proxy. Its requests are not in the access log, since their addresses hold codes.
type Callback struct {
	log *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (Callback) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.token_callback",
		New: func() caddy.Module { return new(Callback) },
	}
}

// Provision sets up the handler.
func (c *Callback) Provision(ctx caddy.Context) error {
	c.log = ctx.Logger()
	return nil
}

// parseTokenCallback parses the directive:
//
//	token_callback [<matcher>]
func parseTokenCallback(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	c := new(Callback)
	return c, c.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile reads what parseTokenCallback describes.
func (c *Callback) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // consume directive name
	if d.NextArg() || d.NextBlock(0) {
		return d.Errf("token_callback takes a matcher, such as token_callback /oauth/callback, and nothing else")
	}
	return nil
}

//go:embed callback.html
var callbackText string

var callbackPage = template.Must(template.New("callback").Parse(callbackText))

// callbackHeader keeps the page from loading anything, from being framed, and from
// telling its address to others.
var callbackHeader = map[string]string{
	"Cache-Control":              "no-store",
	"Content-Security-Policy":    "default-src 'none'; style-src 'sha256-3EQ7LLBmjyvQDsvsE/2nhfIehZm9k/lOTXhsKZkPZdQ='; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
	"Content-Type":               "text/html; charset=utf-8",
	"Cross-Origin-Opener-Policy": "same-origin",
	"Referrer-Policy":            "no-referrer",
	"X-Content-Type-Options":     "nosniff",
	"X-Frame-Options":            "DENY",
}

// callbackView is what the page shows.
type callbackView struct {
	Source  string
	Granted *authorization // nil where it failed
	Problem string
	Before  bool // it was granted before
	Command string
}

// Until says until when the token is good, where that is known.
func (v callbackView) Until() string {
	if v.Granted == nil || v.Granted.TokenExpires == nil {
		return ""
	}
	return v.Granted.TokenExpires.Format("2006-01-02 15:04:05 UTC")
}

// write writes the page. Where the browser has left, nobody has to know.
func (v callbackView) write(w http.ResponseWriter, status int) {
	for name, value := range callbackHeader {
		w.Header().Set(name, value)
	}
	w.WriteHeader(status)
	_ = callbackPage.Execute(w, v)
}

// maxCallbackBody is far more than a form with a code.
const maxCallbackBody = 64 << 10

func (c *Callback) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	parameters := r.URL.Query()
	switch r.Method {
	case http.MethodGet:
	case http.MethodPost: // OAuth 2.0 Form Post Response Mode
		r.Body = http.MaxBytesReader(w, r.Body, maxCallbackBody)
		if err := r.ParseForm(); err != nil {
			return c.show(w, r, http.StatusBadRequest, callbackView{Problem: "This form cannot be read."})
		}
		parameters = r.PostForm
	default:
		w.Header().Set("Allow", "GET, POST")
		return c.show(w, r, http.StatusMethodNotAllowed, callbackView{Problem: "This page takes the answer of a provider, by GET or POST."})
	}
	s, a, err := callback(r.Context(), parameters)
	view := callbackView{}
	if s != nil {
		view.Source = s.name
	}
	if err == nil {
		view.Granted = a
		return c.show(w, r, http.StatusOK, view)
	}
	status := http.StatusInternalServerError
	view.Problem = "The authorization could not be read or stored; Caddy's log says why."
	if p, ok := errors.AsType[*problem](err); ok {
		status, view.Problem = p.status, sentence(p.text)
		if status == http.StatusConflict {
			status = http.StatusBadRequest
		}
	} else {
		c.log.Error("callback", zap.String("source", view.Source), zap.Error(err))
	}
	if s != nil && !errors.Is(err, errGrantedBefore) {
		view.Command = authorizeCommand(s.name)
	}
	view.Before = errors.Is(err, errGrantedBefore)
	return c.show(w, r, status, view)
}

// show writes the page, and the line that stands for it in the log.
func (c *Callback) show(w http.ResponseWriter, r *http.Request, status int, view callbackView) error {
	c.log.Info("callback", zap.String("source", view.Source), zap.Bool("granted", view.Granted != nil),
		zap.Int("status", status), zap.String("problem", view.Problem), zap.String("method", r.Method), zap.String("remote_addr", r.RemoteAddr))
	view.write(w, status)
	return nil
}

// sentence makes a sentence of an error.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	text = strings.ToUpper(text[:1]) + text[1:]
	if !strings.HasSuffix(text, ".") {
		text += "."
	}
	return text
}
