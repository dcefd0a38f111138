package tokensource

import (
	"context"
	"io"
)

type permitKey struct{}

// WithPermit asks for a last permit before a refresh token is sent: permit is
// called when all else is ready, and again when the connection stands, if the
// refresh token goes into a body. Its error keeps the request from being sent.
// Where a process may have been frozen in between, another one may have spent
// the refresh token meanwhile.
func WithPermit(ctx context.Context, permit func() error) context.Context {
	return context.WithValue(ctx, permitKey{}, permit)
}

func permitOf(ctx context.Context) func() error {
	permit, _ := ctx.Value(permitKey{}).(func() error)
	return permit
}

// permittedBody asks before its first byte is read.
type permittedBody struct {
	io.ReadCloser
	permit func() error // nil once it was given
}

func (b *permittedBody) Read(p []byte) (int, error) {
	if b.permit != nil {
		if err := b.permit(); err != nil {
			return 0, err
		}
		b.permit = nil
	}
	return b.ReadCloser.Read(p)
}
