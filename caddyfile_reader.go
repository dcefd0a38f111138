package injecttoken

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// optionReader reads the options of one block, each once unless it repeats,
// and knows later where each of them stands.
type optionReader struct {
	*caddyfile.Dispenser
	start   *caddyfile.Dispenser // at the token in front of the block
	places  map[string]*caddyfile.Dispenser
	block   string               // what the block describes
	current string               // the option that is read
	place   *caddyfile.Dispenser // at that option
}

func newOptionReader(d *caddyfile.Dispenser, block string) *optionReader {
	return &optionReader{Dispenser: d, start: placeOf(d), places: map[string]*caddyfile.Dispenser{}, block: block}
}

// placeOf returns a dispenser whose errors name the line of d's current token.
func placeOf(d *caddyfile.Dispenser) *caddyfile.Dispenser {
	place := caddyfile.NewDispenser([]caddyfile.Token{d.Token()})
	place.Next()
	return place
}

// begin notes that the option at the current token is read.
func (r *optionReader) begin(repeats bool) error {
	r.current, r.place = r.Val(), placeOf(r.Dispenser)
	if first, again := r.places[r.current]; again {
		if !repeats {
			return r.Errf("%s: given already at %s:%d", r.current, first.File(), first.Line())
		}
		return nil
	}
	r.places[r.current] = r.place
	return nil
}

// named notes where the current option stands with this name, of those that
// stand several times with different ones.
func (r *optionReader) named(name string) {
	r.places[r.current+" "+name] = r.place
}

// option begins the option at the current token and returns its arguments.
func (r *optionReader) option(repeats bool) ([]string, error) {
	if err := r.begin(repeats); err != nil {
		return nil, err
	}
	return r.RemainingArgs(), nil
}

// errf returns an error about the current option. Its arguments are not shown
// by itself: any of them may be a secret.
func (r *optionReader) errf(format string, args ...any) error {
	return r.Errf(r.current+": "+format, args...)
}

// locate gives a mistake the line of its option, or else of what that is in.
func (r *optionReader) locate(m *mistake) error {
	for option := m.option; ; {
		if place, ok := r.places[option]; ok {
			return place.WrapErr(m)
		}
		end := strings.LastIndexByte(option, ' ')
		if end < 0 {
			return r.start.WrapErr(m)
		}
		option = option[:end]
	}
}

// unknown returns the error for an option that there is not. What was written
// is shown only if it is nearly an option: in a line that was broken in the
// wrong place it may be a secret.
func (r *optionReader) unknown(names []string) error {
	if r.Val() == "{" {
		return r.Errf("%s takes no block in braces", r.current)
	}
	if best := nearest(r.Val(), names); best != "" {
		return r.Errf("unknown option %s in %s; did you mean %s?", r.Val(), r.block, best)
	}
	if hint, known := elsewhere[r.Val()]; known && r.block == "source" {
		return r.Errf("unknown option %s in %s; write %s", r.Val(), r.block, hint)
	}
	return r.Errf("unknown option in %s; %s", r.block, didYouMean("", names))
}

// elsewhere is how options are called in OAuth, or in reverse_proxy.
var elsewhere = map[string]string{
	"url": "token_url", "token_endpoint": "token_url", "endpoint": "token_url",
	"grant_type": "grant", "token_endpoint_auth_method": "client_auth", "auth_method": "client_auth",
	"audience": "param audience VALUE", "resource": "param resource VALUE", "tenant": "param tenant VALUE",
	"header": "header in token_request { … }", "expires_in": "expires_in in token_response { … }",
	"tls_insecure_skip_verify": "this in transport http { … }", "tls_trust_pool": "this in transport http { … }",
	"tls_client_auth": "this in transport http { … }", "network_proxy": "this in transport http { … }",
}

func (r *optionReader) text(out *string, args []string) error {
	if len(args) == 0 {
		return r.errf("the argument is missing")
	}
	if len(args) > 1 && (args[0] == "{file" || args[0] == "{env") {
		return r.errf("a placeholder is written with a dot and no blank: %s.…}", args[0])
	}
	if len(args) > 1 {
		return r.errf("this takes one argument, but there are %d; put quotes around one with blanks", len(args))
	}
	if args[0] == "" {
		return r.errf("the argument is empty")
	}
	*out = args[0]
	return nil
}

func (r *optionReader) oneOf(out *string, args []string, words ...string) error {
	if len(args) != 1 || !slices.Contains(words, args[0]) {
		return r.errf("write one of: %s", strings.Join(words, ", "))
	}
	*out = args[0]
	return nil
}

func (r *optionReader) duration(out *caddy.Duration, args []string) error {
	if len(args) == 1 {
		if d, err := caddy.ParseDuration(args[0]); err == nil && d > 0 {
			*out = caddy.Duration(d)
			return nil
		}
	}
	return r.errf("write one duration of more than 0, such as 30s or 5m")
}
