package injecttoken

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// What became of the token of a request: the values of the access log's
// token_outcome and of the placeholder {http.inject_token.outcome}.
const (
	injected = "injected" // the request went out with the token
	replayed = "replayed" // it was refused, and went out once more with another
	refused  = "refused"  // the last answer is a refusal
	passed   = "passed"   // it went out without a token
	kept     = "kept"     // it went out with the caller's own credential
	failed   = "failed"   // it did not go out
)

// outcomes is what the access log and the placeholders say of a source, made
// once for each outcome.
type outcomes map[string]told

// told is what is said of one outcome: both fields of the log in one, which
// costs a request less.
type told struct {
	field           zap.Field
	source, outcome any
}

func newOutcomes(source string) outcomes {
	o := make(outcomes)
	for _, outcome := range []string{injected, replayed, refused, passed, kept, failed} {
		field := zap.Inline(zapcore.ObjectMarshalerFunc(func(e zapcore.ObjectEncoder) error {
			e.AddString("token_source", source)
			e.AddString("token_outcome", outcome)
			return nil
		}))
		field.Key = "inject_token" // not shown
		o[outcome] = told{field, source, outcome}
	}
	return o
}

// tell puts the outcome into the access log and into placeholders. Health
// checks have neither.
func (o outcomes) tell(req *http.Request, outcome string) {
	told := o[outcome]
	ctx := req.Context()
	if extra, ok := ctx.Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Set(told.field)
	}
	if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.inject_token.source", told.source)
		repl.Set("http.inject_token.outcome", told.outcome)
	}
}
