//! A connection pooler that silently drops the settings that a session has at its start.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

/// The same database through such a pooler.
pub async fn dropping_settings(url: &str) -> String {
    let mut url: Url = url.parse().unwrap();
    let target = SocketAddr::from(([127, 0, 0, 1], url.port().expect("a port")));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_query(Some("sslmode=disable"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, target));
        }
    });
    url.into()
}

async fn serve(mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    let length = client.read_u32().await?;
    let mut startup = vec![0; usize::try_from(length).expect("a length") - 4];
    client.read_exact(&mut startup).await?;
    let (version, parameters) = startup.split_at(4);
    let words: Vec<&[u8]> = parameters.split(|byte| *byte == 0).collect();
    let mut kept = version.to_vec();
    for pair in words.chunks_exact(2).filter(|pair| !pair[0].is_empty() && pair[0] != b"options") {
        kept.extend([pair[0], b"\0", pair[1], b"\0"].concat());
    }
    kept.push(0);
    server.write_u32(u32::try_from(kept.len() + 4).expect("a length")).await?;
    server.write_all(&kept).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
